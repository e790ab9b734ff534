"""The base model: loading, devices, tokens and hidden states."""
