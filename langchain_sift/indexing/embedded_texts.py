"""Embed texts, and check their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_sift.errors import EmbeddingError, SIFTError
from langchain_sift.indexing.row_requests import Vector


def embed_texts(embeddings: Embeddings, texts: Sequence[str]) -> dict[str, Vector]:
    """Return the vectors of texts; without texts the embeddings are not called.

    Raises:
        EmbeddingError: If the embeddings fail, or return something else than a vector of finite
            numbers for each text, all of one dimension.
    """
    if not texts:
        return {}
    try:
        vectors = embeddings.embed_documents(list(texts))
    except SIFTError:
        raise
    except Exception as error:
        # Most often a server that is down.
        reason = str(error).strip().partition("\n")[0]
        raise EmbeddingError(f"the embeddings failed: {type(error).__name__}: {reason}") from error
    return dict(zip(texts, _checked(vectors, len(texts)), strict=True))


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
