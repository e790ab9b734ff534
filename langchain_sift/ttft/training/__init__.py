"""LoRA training on the documents of one request."""
