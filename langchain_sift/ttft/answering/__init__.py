"""Answer prompts and score texts after them, with one pass over each prompt."""
