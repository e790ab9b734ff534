"""Train LoRA adapters on the documents of a request."""
