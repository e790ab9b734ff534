"""Embed texts, and check their vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_sift.errors import EmbeddingError
from langchain_sift.indexing.row_requests import Vector
from langchain_sift.stores.embedding_calls import embedding_errors


def embed_texts(embeddings: Embeddings, texts: Sequence[str]) -> dict[str, Vector]:
    """Return the vectors of texts; without texts the embeddings are not called.

    Raises:
        EmbeddingError: If the embeddings fail, or return something else than a vector of finite
            numbers for each text, all of one dimension.
    """
    if not texts:
        return {}
    with embedding_errors():
        vectors = embeddings.embed_documents(list(texts))
    return dict(zip(texts, _checked(vectors, len(texts)), strict=True))


def warn_of_zeros(vectors: Mapping[str, Vector]) -> None:
    """Warn if the vector of a text is zero: retrieval would leave its documents out."""
    if not all(map(any, vectors.values())):
        # Without a number, so that it is shown once for all batches.
        warnings.warn(
            "the embeddings return zero vectors for some texts, whose documents retrieval leaves "
            "out: `langchain-sift doctor` counts them; use embeddings that know these texts, or "
            "leave the texts out",
            UserWarning,
            stacklevel=2,
        )


def _checked(vectors: object, texts: int) -> list[Vector]:
    try:
        found = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(
            "the embeddings must return vectors of numbers, all of one dimension"
        ) from error
    if found.ndim != 2 or len(found) != texts or not found.size:
        raise EmbeddingError(
            f"the embeddings returned an array of shape {found.shape} for {texts} texts: it must "
            "have a row for each"
        )
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found).all(axis=1)).sum())
        raise EmbeddingError(
            f"the embeddings returned NaN or infinity for {bad} of {texts} texts: check the "
            "embeddings; a local model may need another --dtype"
        )
    rows: list[Vector] = found.tolist()
    return rows
