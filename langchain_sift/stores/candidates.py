"""Collect, deduplicate and search candidates: documents of different texts with their vectors.

The searches are generators that yield requests for a store and are sent the answers. The same
lines serve threads, coroutines, many queries in one call, and vectors in memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import Selection
from langchain_sift.selection.residual import residual_steps
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.interface import ROWS_PER_CALL, Page, Rows, Search
from langchain_sift.stores.neighbors import different_texts, warn_of_limit
from langchain_sift.stores.unit_vectors import with_units


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents of different texts, with their vectors."""

    documents: tuple[Document, ...]
    """Each text once, as stored."""

    embeddings: Array
    """Unit vectors, shape (n, d)."""

    copies: tuple[int, ...]
    """For each document, the number of fetched rows with its text, at least 1; with
    `near_duplicate_similarity`, those with nearly its text too."""

    relevance: Array | None = None
    """Score in the fused ranking of two searches, at most 1, shape (n,). None for one search."""

    chunks: tuple[Document, ...] | None = None
    """The chunks that stand for the documents, if these are parents."""

    same: tuple[tuple[Document, ...], ...] | None = None
    """The rows with the text of each document. None means the documents alone."""

    @property
    def rows(self) -> tuple[tuple[Document, ...], ...]:
        """The rows with the text of each document."""
        return tuple((each,) for each in self.documents) if self.same is None else self.same

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Candidates:
        """Return the candidates of these rows."""
        indices = [int(row) for row in rows]
        return Candidates(
            documents=tuple(self.documents[index] for index in indices),
            embeddings=self.embeddings[indices],
            copies=tuple(self.copies[index] for index in indices),
            relevance=None if self.relevance is None else self.relevance[indices],
            chunks=self.chunks and tuple(self.chunks[index] for index in indices),
            same=self.same and tuple(self.same[index] for index in indices),
        )

    def copy_documents(self, indices: Iterable[int]) -> list[Document]:
        """Copy the documents at these indices, with the containers in their metadata.

        A caller may change a copy: neither the store nor another result of a batch sees it.
        """
        chosen = [self.documents[index] for index in indices]
        return [
            document.model_copy(update={"metadata": _copy_containers(document.metadata)})
            for document in chosen
        ]


class CandidatePool:
    """Collects candidates from several answers; rows of identical text become one candidate."""

    def __init__(self, dimensions: int) -> None:
        """Start empty, for vectors with this number of dimensions."""
        self._dimensions = dimensions
        self._documents: list[Document] = []
        self._embeddings: list[Array] = []
        self._index_of: dict[str, int] = {}  # by text
        self._rows: list[dict[str | int, Document]] = []  # of each text

    def __contains__(self, text: str) -> bool:
        """Return True if a candidate has this text."""
        return text in self._index_of

    def add(
        self, documents: Sequence[Document], units: Array, *, limit: int | None = None
    ) -> Array:
        """Add documents in their order, of at most `limit` different texts.

        Args:
            documents: Documents of one answer.
            units: Their vectors, of unit norm, shape (n, d).
            limit: Maximum number of different texts. None means no limit.

        Returns:
            The vectors of the documents whose text is new, shape (i, d).
        """
        texts: set[str] = set()
        without_id: Counter[str] = Counter()
        new: list[int] = []
        for row, document in enumerate(documents):
            text = document.page_content
            if text not in texts and len(texts) == limit:
                continue
            texts.add(text)
            index = self._index_of.setdefault(text, len(self._documents))
            if index == len(self._documents):
                self._documents.append(document)
                self._rows.append({})
                new.append(row)
            key: str | int | None = document.id
            if key is None:  # counted per answer, because another answer may repeat the row
                without_id[text] += 1
                key = without_id[text]
            self._rows[index].setdefault(key, document)
        embeddings: Array = units if len(new) == len(units) else units[new]
        self._embeddings.append(embeddings)
        return embeddings

    def candidates(self) -> Candidates:
        """Return all candidates, in the order in which they were added."""
        if len(self._embeddings) == 1:
            embeddings = self._embeddings[0]  # a copy would take as long as the selection
        else:
            embeddings = np.concatenate([np.empty((0, self._dimensions)), *self._embeddings])
        return Candidates(
            documents=tuple(self._documents),
            embeddings=embeddings,
            copies=tuple(len(rows) for rows in self._rows),
            same=tuple(tuple(rows.values()) for rows in self._rows),
        )


def nearest_candidates(queries: Array, units: Array, *, fetch_k: int) -> Search[Candidates]:
    """Fetch the rows nearest to each query vector, by cosine, and unite them.

    Args:
        queries: Shape (m, d), of the length that the embeddings gave them. A store that compares
            by distance is queried with these: unit vectors would be nearest to short rows.
        units: The same scaled to unit norm.
        fetch_k: Maximum number of different texts for each query vector.
    """
    return (yield from nearest_pool(queries, units, fetch_k=fetch_k)).candidates()


def nearest_pool(queries: Array, units: Array, *, fetch_k: int) -> Search[CandidatePool]:
    """Fetch as `nearest_candidates` does, for a search that adds further candidates."""
    pool = CandidatePool(queries.shape[1])
    answers = yield from different_texts(queries, fetch_k)
    warn_of_limit(answers, fetch_k)
    for unit, rows in zip(units, answers, strict=True):
        _add_nearest_first(pool, unit, rows, limit=fetch_k)
    return pool


def every_candidate(dimensions: int) -> Search[Candidates]:
    """Read all rows of the store, page by page."""
    pool = CandidatePool(dimensions)
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, ROWS_PER_CALL)
        if isinstance(rows, Candidates):  # the answer of an `ExactIndex`
            return rows
        rows, vectors = with_units(rows, dimensions)
        pool.add(rows.documents, vectors)
        if cursor is None:
            return pool.candidates()


def residual_candidates(
    queries: Array, units: Array, settings: SelectionSettings, *, step_fetch_k: int
) -> Search[tuple[Candidates, Selection]]:
    """Fetch candidates before each choice, and choose; see `select_residual`.

    Without `replace`, candidates that point away from all query vectors come last, as in
    `choose_for_retrieval`.

    Args:
        queries: As in `nearest_candidates`.
        units: As in `nearest_candidates`.
        settings: The settings of the selection, with the linear kernel.
        step_fetch_k: As in `select_residual`.
    """
    pool = CandidatePool(queries.shape[1])
    length = np.linalg.norm(queries, axis=1).mean()
    steps = residual_steps(
        units,
        k=settings.k,
        step_fetch_k=step_fetch_k,
        noise_variance=settings.noise_variance,
        replace=settings.replace,
        stopping_alpha=settings.stopping_alpha,
        opposites_last=not settings.replace,
    )
    directions, count = next(steps)
    while True:
        answers = yield from different_texts(length * directions, count)
        new = [
            _add_nearest_first(pool, unit, rows, limit=count)
            for unit, rows in zip(directions, answers, strict=True)
        ]
        try:
            directions, count = steps.send(np.concatenate([np.empty((0, queries.shape[1])), *new]))
        except StopIteration as end:
            return pool.candidates(), end.value


def _add_nearest_first(pool: CandidatePool, unit: Array, rows: Rows, *, limit: int) -> Array:
    """Add rows by their cosine with a direction, whatever the store's metric; ties by id."""
    rows, units = with_units(rows, len(unit))
    documents = rows.documents
    # Row by row: a product with a matrix wakes the other threads of BLAS, which takes longer.
    # The products of equal vectors may differ in their last bits.
    ranks = np.round(-np.vecdot(units, unit), 9)
    if np.all(ranks[1:] > ranks[:-1]):  # in this order already
        return pool.add(documents, units, limit=limit)
    order = sorted(
        range(len(documents)), key=lambda row: (float(ranks[row]), documents[row].id or "")
    )
    return pool.add([documents[row] for row in order], units[order], limit=limit)


def _copy_containers(value: Any) -> Any:
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the class, such as `ScoredMetadata`
        copied.update({key: _copy_containers(item) for key, item in value.items()})
        return copied
    if isinstance(value, list):
        return [_copy_containers(item) for item in value]
    if type(value) is tuple:  # others, such as named ones, are made otherwise
        return tuple(map(_copy_containers, value))
    return value.copy() if isinstance(value, set) else value
