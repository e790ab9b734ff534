"""Texts with a word that no error message may repeat, and random vectors for them."""

from __future__ import annotations

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

CANARY = "heliotrope"
TEXTS = [f"{CANARY} number {number}" for number in range(60)]
QUERIES = [f"where is the {CANARY} of {number}?" for number in range(6)]


class RandomEmbeddings(Embeddings):
    """Random vectors, seeded by the text."""

    def __init__(self, dimensions: int = 8) -> None:
        self._dimensions = dimensions

    def embed_query(self, text: str) -> list[float]:
        rng = np.random.default_rng(list(text.encode()))
        return rng.standard_normal(self._dimensions).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]
