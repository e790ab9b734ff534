"""Read candidates with their vectors from vector stores, with one adapter for each kind of store.

A stored vector is never computed again, and the query is embedded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_sift.stores.calls import fetch_candidates
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.embedding_calls import embed_query, embeddings_of
from langchain_sift.stores.interface import (
    AsyncStoreAdapter,
    Rows,
    StoreAdapter,
    register_adapter,
)
from langchain_sift.stores.location import ChromaLocation

if TYPE_CHECKING:
    from langchain_sift.stores.async_chroma import AsyncChroma
    from langchain_sift.stores.bm25 import StoreBM25Retriever

__all__ = [
    "AsyncChroma",
    "AsyncStoreAdapter",
    "Candidates",
    "ChromaLocation",
    "Rows",
    "StoreAdapter",
    "StoreBM25Retriever",
    "embed_query",
    "embeddings_of",
    "fetch_candidates",
    "register_adapter",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncChroma":  # imports chromadb, which takes a second
        from langchain_sift.stores.async_chroma import AsyncChroma  # noqa: PLC0415

        return AsyncChroma
    if name == "StoreBM25Retriever":
        from langchain_sift.stores.bm25 import StoreBM25Retriever  # noqa: PLC0415

        return StoreBM25Retriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
