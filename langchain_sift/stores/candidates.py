"""What a store is asked for: documents of different texts and their vectors, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.documents import Document

from langchain_sift.errors import DimensionMismatch, EmbeddingError
from langchain_sift.selection.arguments import Array


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents of different texts."""

    documents: tuple[Document, ...]
    """Each once, as the store holds it."""

    embeddings: Array
    """Of unit norm, shape (n, d)."""

    copies: tuple[int, ...]
    """For each document, how many of the rows fetched have its text; at least 1."""


class CandidatePool:
    """Gathers candidates from several answers; rows of identical text become one of them."""

    def __init__(self, dimensions: int) -> None:
        """Start with none, of so many dimensions."""
        self._dimensions = dimensions
        self._documents: list[Document] = []
        self._embeddings: list[Array] = []
        self._places: dict[str, int] = {}
        self._rows: list[set[str | int]] = []  # of each text

    def add(
        self, documents: Sequence[Document], units: Array, *, limit: int | None = None
    ) -> Array:
        """Add documents in their order, of at most `limit` different texts.

        Args:
            documents: What to add.
            units: Their vectors, of unit norm, shape (n, d).
            limit: None for no limit.

        Returns:
            The vectors of those whose text is new, shape (i, d).
        """
        texts: set[str] = set()
        nameless: Counter[str] = Counter()
        new: list[int] = []
        for row, document in enumerate(documents):
            text = document.page_content
            if text not in texts and len(texts) == limit:
                continue
            texts.add(text)
            place = self._places.setdefault(text, len(self._documents))
            if place == len(self._documents):
                self._documents.append(document)
                self._rows.append(set())
                new.append(row)
            name: str | int | None = document.id
            if name is None:  # its number among those of this answer: it may come in another too
                nameless[text] += 1
                name = nameless[text]
            self._rows[place].add(name)
        embeddings: Array = units if len(new) == len(units) else units[new]
        self._embeddings.append(embeddings)
        return embeddings

    def candidates(self) -> Candidates:
        """Return all that were added, in that order."""
        if len(self._embeddings) == 1:
            embeddings = self._embeddings[0]  # as it is: a copy takes as long as the choice
        else:
            embeddings = np.concatenate([np.empty((0, self._dimensions)), *self._embeddings])
        return Candidates(
            documents=tuple(self._documents),
            embeddings=embeddings,
            copies=tuple(len(rows) for rows in self._rows),
        )


def normalized(queries: Array) -> Array:
    """Return the vectors of a query, shape (m, d), none of them zero, scaled to unit norm."""
    units: Array = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return units


def unit_vector(embedding: Array) -> Array:
    """Return the query's vector scaled to unit norm.

    Raises:
        EmbeddingError: If it is zero or not finite.
    """
    unit: Array = unit_rows(embedding[None, :], ["the query"], len(embedding))[0]
    return unit


def unit_rows(embeddings: Array, names: Sequence[str | None], dimensions: int) -> Array:
    """Return the rows scaled to unit norm.

    Args:
        embeddings: Shape (n, d).
        names: Of the rows, for messages.
        dimensions: Those of the query, which d has to be.

    Raises:
        EmbeddingError: If a vector is zero or not finite.
        DimensionMismatch: If d is not `dimensions`.
    """
    if embeddings.shape[1] != dimensions:
        raise DimensionMismatch(
            f"the query has {dimensions} dimensions and the stored vectors have "
            f"{embeddings.shape[1]}: open the store with the embeddings that filled it"
        )
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~((norms > 0.0) & np.isfinite(norms)))
    if len(bad):
        what = "zero" if norms[bad[0]] == 0.0 else "NaN or infinite"
        raise EmbeddingError(f"the vector of {names[bad[0]]} is {what}: embed that text again")
    units: Array = embeddings / norms[:, None]
    return units
