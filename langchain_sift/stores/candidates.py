"""What a store is asked for: documents and their vectors, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from langchain_sift.errors import EmbeddingError


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents of different texts, nearest first."""

    documents: tuple[Document, ...]
    """Each once, as the store holds it."""

    embeddings: npt.NDArray[np.float64]
    """Of unit norm, shape (n, d)."""

    copies: tuple[int, ...]
    """For each document, how many of those fetched have its text; at least 1."""


def make_candidates(
    documents: Sequence[Document], embeddings: npt.NDArray[np.float64], dimensions: int
) -> Candidates:
    """Check and normalise the vectors, and keep the first of documents with identical text.

    Args:
        documents: Nearest first.
        embeddings: Shape (n, d), as stored.
        dimensions: Of the query.

    Raises:
        EmbeddingError: If a vector is zero, not finite, or not of the query's dimension.
    """
    rows: dict[str, int] = {}
    copies: list[int] = []
    kept: list[int] = []
    for row, document in enumerate(documents):
        place = rows.setdefault(document.page_content, len(kept))
        if place == len(kept):
            kept.append(row)
            copies.append(0)
        copies[place] += 1
    chosen = embeddings[kept] if kept else np.empty((0, dimensions))
    return Candidates(
        documents=tuple(documents[row] for row in kept),
        embeddings=_unit_rows(chosen, [documents[row].id for row in kept], dimensions),
        copies=tuple(copies),
    )


def unit_vector(embedding: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the query's vector scaled to unit norm.

    Raises:
        EmbeddingError: If it is zero or not finite.
    """
    unit: npt.NDArray[np.float64] = _unit_rows(embedding[None, :], ["the query"], len(embedding))[0]
    return unit


def _unit_rows(
    embeddings: npt.NDArray[np.float64], names: Sequence[str | None], dimensions: int
) -> npt.NDArray[np.float64]:
    if embeddings.shape[1] != dimensions:
        msg = (
            f"the query has {dimensions} dimensions and the stored vectors have "
            f"{embeddings.shape[1]}: open the store with the embeddings that filled it"
        )
        raise EmbeddingError(msg)
    norms = np.linalg.norm(embeddings, axis=1)
    for name, norm in zip(names, norms, strict=True):
        if not np.isfinite(norm) or norm == 0.0:
            what = "zero" if norm == 0.0 else "NaN or infinite"
            msg = f"the vector of {name} is {what}: embed that text again"
            raise EmbeddingError(msg)
    units: npt.NDArray[np.float64] = embeddings / norms[:, None]
    return units
