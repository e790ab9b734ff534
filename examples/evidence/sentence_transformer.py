"""Embed with a sentence-transformer: `run.py --embeddings sentence_transformer:MiniLM`.

The environment variable SENTENCE_TRANSFORMER names the model, on the Hub or in a folder; default
all-MiniLM-L6-v2.
"""

from __future__ import annotations

import os

import torch
from langchain_core.embeddings import Embeddings
from transformers import AutoModel, AutoTokenizer

_MAX_TOKENS = 256  # as in the training of all-MiniLM-L6-v2
_BATCH_SIZE = 32


class MiniLM(Embeddings):
    """The means of the last hidden states, scaled to unit norm."""

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
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _BATCH_SIZE):
            batch = texts[start : start + _BATCH_SIZE]
            tokens = self._tokenizer(
                batch, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
            )
            mask = tokens["attention_mask"][..., None]
            states = self._model(**tokens).last_hidden_state
            means = (states * mask).sum(1) / mask.sum(1)
            vectors += torch.nn.functional.normalize(means, dim=-1).tolist()
        return vectors
