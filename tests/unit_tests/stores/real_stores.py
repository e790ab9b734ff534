"""Make real stores of the same rows, and compute the expected choices by brute force.

Only the vectors are made up: drawn from the text itself, so that no two of them tie.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import reference
from langchain_chroma import Chroma
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS

DIMENSIONS = 8
LINEAR = {"kernel": "linear", "noise_variance": 0.01}
DEFAULT_KERNEL = reference.linear
TEXTS = [f"fact {number}" for number in range(40)]
QUERY = "which?"


class CountingEmbeddings(Embeddings):
    """Vectors drawn from the text, times a length; records the embedded texts."""

    def __init__(
        self,
        *,
        dimensions: int = DIMENSIONS,
        lengths: Sequence[float] = (1.0,),
        given: Mapping[str, Any] | None = None,
    ):
        self.dimensions, self.lengths = dimensions, lengths
        self.given = given or {}
        self.queries: list[str] = []
        self.documents: list[str] = []

    def vector(self, text: str) -> np.ndarray:
        if text in self.given:
            return np.asarray(self.given[text], dtype=np.float64)
        vector = np.random.default_rng(list(text.encode())).standard_normal(self.dimensions)
        return self.lengths[len(text) % len(self.lengths)] * vector / np.linalg.norm(vector)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.vector(text) for text in texts])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents += texts
        return [self.vector(text).tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return self.vector(text).tolist()

    @contextlib.contextmanager
    def counting(self) -> Iterator[CountingEmbeddings]:
        """Count from here on."""
        self.queries, self.documents = [], []
        yield self


def make_chroma(embeddings, *, space="l2", folder=None):
    return Chroma(
        collection_name=f"facts-{uuid.uuid4()}",
        embedding_function=embeddings,
        collection_configuration={"hnsw": {"space": space}},
        persist_directory=None if folder is None else str(folder),
    )


def make_faiss(embeddings, *, index=None, dimensions=DIMENSIONS):
    index = faiss.IndexFlatL2(dimensions) if index is None else index
    return FAISS(embeddings, index, InMemoryDocstore(), {})


def make_qdrant(embeddings, *, distance="COSINE", name="", dimensions=DIMENSIONS):
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=dimensions, distance=models.Distance[distance])
    client.create_collection("facts", vectors_config={name: size} if name else size)
    return QdrantVectorStore(
        client,
        "facts",
        embeddings,
        vector_name=name,
        distance=models.Distance[distance],
        validate_collection_config=False,
    )


def make_store(kind: str, embeddings: Embeddings, folder: Path) -> VectorStore:
    """Return an empty store."""
    makers = {
        "Chroma": lambda: make_chroma(embeddings),
        "Chroma on disk": lambda: make_chroma(embeddings, folder=folder),
        "InMemoryVectorStore": lambda: InMemoryVectorStore(embeddings),
        "FAISS": lambda: make_faiss(embeddings),
        "Qdrant": lambda: make_qdrant(embeddings),
    }
    return makers[kind]()


KINDS = ("Chroma", "Chroma on disk", "InMemoryVectorStore", "FAISS", "Qdrant")


def condition(kind: str, key: str, value: Any) -> Any:
    """Return the filter `metadata[key] == value` in the store's own form."""
    if kind == "InMemoryVectorStore":
        return lambda document: document.metadata.get(key) == value
    if kind == "Qdrant":
        match = models.MatchValue(value=value)
        return models.Filter(must=[models.FieldCondition(key=f"metadata.{key}", match=match)])
    return {key: value}


def id_of(number: int) -> str:
    """Return an id that every store takes."""
    return str(uuid.UUID(int=number))


def fill(store: VectorStore, texts: Sequence[str] = TEXTS) -> VectorStore:
    """Add the texts, numbered in id and metadata."""
    store.add_texts(
        list(texts),
        metadatas=[{"number": n, "even": n % 2 == 0} for n in range(len(texts))],
        ids=[id_of(n) for n in range(len(texts))],
    )
    return store


@dataclass
class ByHand:
    """The expected results, by brute force."""

    embeddings: CountingEmbeddings
    texts: Sequence[str] = field(default_factory=lambda: TEXTS)

    def candidates(self, queries: np.ndarray, *, fetch_k: int) -> list[str]:
        """Return the different texts nearest to each query by cosine, nearest first."""
        texts = list(dict.fromkeys(self.texts))
        cosines = unit(self.embeddings.vectors(texts)) @ unit(np.atleast_2d(queries)).T
        orders = np.argsort(-cosines, axis=0)[:fetch_k].T
        return list(dict.fromkeys(texts[row] for order in orders for row in order))

    def choice(
        self,
        queries: np.ndarray,
        *,
        k: int,
        fetch_k: int,
        noise_variance: float = DEFAULT_SETTINGS.noise_variance,
        kernel: reference.Kernel = DEFAULT_KERNEL,
    ) -> list[str]:
        """Return the retriever's choice among the candidates, in order."""
        queries = unit(np.atleast_2d(queries))
        texts = self.candidates(queries, fetch_k=fetch_k)
        vectors = unit(self.embeddings.vectors(texts))
        chosen, _ = reference.retrieval(
            queries, vectors, k=k, noise_variance=noise_variance, kernel=kernel
        )
        return [texts[row] for row in chosen]

    def linear_choice(self, queries: np.ndarray, *, k: int, fetch_k: int) -> list[str]:
        """Return the retriever's choice with the settings `LINEAR`."""
        settings = {"noise_variance": LINEAR["noise_variance"], "kernel": reference.linear}
        return self.choice(queries, k=k, fetch_k=fetch_k, **settings)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def texts_of(found: Any) -> list[str]:
    """Return the texts of documents, of candidates or of a retrieval."""
    return [document.page_content for document in getattr(found, "documents", found)]
