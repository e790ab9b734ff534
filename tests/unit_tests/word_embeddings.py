"""Embeddings of which a test knows what is similar: texts with the same words."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from langchain_core.embeddings import Embeddings


class WordEmbeddings(Embeddings):
    """Embeds a text as the sum of a random vector for each of its words, of unit norm."""

    def __init__(self, dimensions: int = 48) -> None:
        self.dimensions = dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = sum(map(self._of_word, re.findall(r"\w+", text.lower())), self._of_word(""))
        return (vector / np.linalg.norm(vector)).tolist()

    def _of_word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
        return np.random.default_rng(seed).standard_normal(self.dimensions)
