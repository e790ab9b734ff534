"""Call embeddings, and report their failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import EmbeddingError, SIFTError, StoreError
from langchain_sift.selection.arguments import Array


@contextmanager
def embedding_errors() -> Iterator[None]:
    """Raise a failure of embeddings, most often a server that is down, as an `EmbeddingError`."""
    try:
        yield
    except SIFTError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise EmbeddingError(f"the embeddings failed: {type(error).__name__}: {reason}") from error


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


def embed_query(vectorstore: VectorStore, query: str) -> Array:
    """Embed the query with the store's embedding function; shape (d,).

    Raises:
        StoreError: If the store has none.
        EmbeddingError: As `query_vector`.
    """
    return query_vector(embeddings_of(vectorstore), query)


def query_vector(embeddings: Embeddings, query: str) -> Array:
    """Embed a query, shape (d,).

    Raises:
        EmbeddingError: If the embeddings fail, or return something else than a vector of numbers.
    """
    with embedding_errors():
        embedded = embeddings.embed_query(query)
    vector: Array = as_vectors([embedded])[0]
    return vector


def as_vectors(embeddings: Sequence[Sequence[float]]) -> Array:
    """Convert the vectors of a query to an array, shape (m, d).

    Raises:
        EmbeddingError: If they are not numbers, or of different dimensions, or empty.
    """
    try:
        queries = np.asarray(embeddings, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(
            "the vectors of a query must be numbers, and all of one dimension"
        ) from error
    if queries.ndim != 2 or not queries.size:
        raise EmbeddingError(f"the vectors of a query must have shape (m, d), got {queries.shape}")
    return queries
