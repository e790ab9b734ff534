"""Candidates, *with their vectors*, out of a vector store: one file per store.

A vector that the store holds is never computed again, and the query is embedded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import StoreError
from langchain_sift.stores.candidates import Candidates

__all__ = ["Candidates", "embed_query", "fetch_candidates"]


def fetch_candidates(
    vectorstore: VectorStore,
    query_embedding: npt.NDArray[np.float64],
    *,
    fetch_k: int,
    **search: Any,
) -> Candidates:
    """Return the documents nearest to the query with their vectors.

    Args:
        vectorstore: A `langchain_chroma.Chroma`.
        query_embedding: Shape (d,).
        fetch_k: How many to ask for; documents of identical text then count as one.
        **search: `filter` and `where_document`, as `Chroma.similarity_search` takes them.

    Raises:
        StoreError: If the store is of another kind, or cannot answer.
        EmbeddingError: If a vector is zero, not finite, or of the wrong dimension.
    """
    # Imported here: loading Chroma takes a second, which `import langchain_sift` must not.
    from langchain_chroma import Chroma  # noqa: PLC0415

    from langchain_sift.stores.chroma import fetch_from_chroma  # noqa: PLC0415

    if isinstance(vectorstore, Chroma):
        return fetch_from_chroma(vectorstore, query_embedding, fetch_k=fetch_k, **search)
    msg = (
        f"{type(vectorstore).__name__} is not supported: SIFT needs the stored vectors, and "
        "reads them from langchain_chroma.Chroma"
    )
    raise StoreError(msg)


def embed_query(vectorstore: VectorStore, query: str) -> npt.NDArray[np.float64]:
    """Return the query's vector, shape (d,), from the store's own embedding function.

    Raises:
        StoreError: If the store has none.
    """
    embeddings = vectorstore.embeddings
    if embeddings is None:
        msg = (
            "the vector store has no embedding function, so the query cannot be embedded: "
            "pass embedding_function=... when you open it"
        )
        raise StoreError(msg)
    return np.asarray(embeddings.embed_query(query), dtype=np.float64)
