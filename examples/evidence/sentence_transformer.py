"""A sentence-transformer as embeddings, for `run.py --embeddings sentence_transformer:MiniLM`.

SENTENCE_TRANSFORMER names the model, on the hub or in a folder; by default all-MiniLM-L6-v2.
"""

from __future__ import annotations

import os

import torch
from langchain_core.embeddings import Embeddings
from transformers import AutoModel, AutoTokenizer

_TOKENS = 256  # that all-MiniLM-L6-v2 was trained with
_AT_ONCE = 32


class MiniLM(Embeddings):
    """Means of the last hidden states, of unit norm."""

    def __init__(self) -> None:
        """Load the model."""
        name = os.environ.get("SENTENCE_TRANSFORMER", "sentence-transformers/all-MiniLM-L6-v2")
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._model = AutoModel.from_pretrained(name).eval()

    def embed_query(self, text: str) -> list[float]:
        """Return the text's vector."""
        return self.embed_documents([text])[0]

    @torch.inference_mode()
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        found: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            some = texts[start : start + _AT_ONCE]
            tokens = self._tokenizer(
                some, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt"
            )
            mask = tokens["attention_mask"][..., None]
            states = self._model(**tokens).last_hidden_state
            means = (states * mask).sum(1) / mask.sum(1)
            found += torch.nn.functional.normalize(means, dim=-1).tolist()
        return found
