"""Load the base model and its tokenizer, tokenize texts and compute their hidden states."""
