"""Candidates, *with their vectors*, out of a vector store: one file per store.

A vector that the store holds is never computed again, and the query is embedded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.interface import (
    AsyncStoreAdapter,
    Rows,
    StoreAdapter,
    adapter_for,
    register_adapter,
)
from langchain_sift.stores.searching import nearest_candidates

if TYPE_CHECKING:
    from langchain_sift.stores.async_chroma import AsyncChroma

__all__ = [
    "AsyncChroma",
    "AsyncStoreAdapter",
    "Candidates",
    "Rows",
    "StoreAdapter",
    "embed_query",
    "embeddings_of",
    "fetch_candidates",
    "register_adapter",
]


def fetch_candidates(
    vectorstore: VectorStore,
    query_embedding: Array,
    *,
    fetch_k: int,
    timeout: float = 30.0,
    **search: Any,
) -> Candidates:
    """Return the documents nearest to the query with their vectors.

    Args:
        vectorstore: Any store whose adapter is asked by threads.
        query_embedding: Shape (d,).
        fetch_k: How many different texts.
        timeout: Seconds that the store may take.
        **search: `filter` and what else the store takes.

    Raises:
        StoreError: If the store cannot answer.
        EmbeddingError: If a vector is zero, not finite, or of the wrong dimension.
    """
    adapter = adapter_for(vectorstore)
    if not isinstance(adapter, StoreAdapter):
        raise StoreError(f"{adapter.label} is asked by coroutines alone")
    searching = nearest_candidates(query_embedding[None, :], fetch_k=fetch_k, opposite=False)
    return run(searching, adapter, timeout=timeout, arguments=search)


def embed_query(vectorstore: VectorStore, query: str) -> Array:
    """Return the query's vector, shape (d,), from the store's own embedding function.

    Raises:
        StoreError: If the store has none.
    """
    return np.asarray(embeddings_of(vectorstore).embed_query(query), dtype=np.float64)


def embeddings_of(vectorstore: VectorStore) -> Embeddings:
    """Return the store's embedding function.

    Raises:
        StoreError: If it has none.
    """
    embeddings = vectorstore.embeddings
    if embeddings is None:
        raise StoreError(
            "the vector store has no embedding function, so the query cannot be embedded: "
            "pass embedding_function=... when you open it, or query_embedder=... here"
        )
    return embeddings


def __getattr__(name: str) -> Any:
    if name == "AsyncChroma":  # imports chromadb, which takes a second
        from langchain_sift.stores.async_chroma import AsyncChroma  # noqa: PLC0415

        return AsyncChroma
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
