"""Read from LangChain's `InMemoryVectorStore`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift.errors import DimensionMismatch, InvalidFilter
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows

Condition = Callable[[Document], bool]
Entry = Mapping[str, Any]
"""A row as the store keeps it."""


class InMemoryAdapter:
    """Reads the dictionary of the store, and ranks by cosine as the store does."""

    search_arguments = ("filter",)

    def __init__(self, vectorstore: InMemoryVectorStore) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = "InMemoryVectorStore"

    def nearest(
        self, directions: Array, count: int, *, timeout: float, filter: Condition | None = None
    ) -> list[Rows]:
        """Compare each direction with every vector; only the nearest rows become documents."""
        del timeout
        entries = self._entries(filter)
        vectors = _vectors(entries)
        # The caller raises the error for vectors of another dimension, and leaves zero ones out.
        if not entries or vectors.shape[1] != directions.shape[1]:
            return [_rows(entries[:1]) for _ in directions]
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.sqrt(np.vecdot(vectors, vectors))  # `norm` would make a second matrix
            is_usable = (norms > 0.0) & np.isfinite(norms)
            similarities = directions @ vectors.T / np.where(is_usable, norms, np.nan)  # NaN: last
        nearest = [np.argsort(-row, kind="stable")[:count].tolist() for row in similarities]
        documents = {row: _document(entries[row]) for row in {*chain.from_iterable(nearest)}}
        return [
            Rows([documents[row] for row in rows], vectors[rows], len(rows)) for rows in nearest
        ]

    def page(
        self, cursor: None, size: int, *, timeout: float, filter: Condition | None = None
    ) -> tuple[Rows, None]:
        """Return all rows, whatever the size: they are in memory already."""
        del cursor, size, timeout
        return _rows(self._entries(filter)), None

    def by_ids(
        self, ids: Sequence[str], *, timeout: float, filter: Condition | None = None
    ) -> Rows:
        """Return the rows of these ids that pass the filter."""
        del timeout
        entries = [self._store.store.get(id_) for id_ in ids]
        found = [entry for entry in entries if entry is not None]
        return _rows(_passing(filter, found))

    def conjunction(self, first: Condition, second: Condition) -> Condition:
        """Return a function that is true if both are."""
        left, right = _check_callable(first), _check_callable(second)
        return lambda document: left(document) and right(document)

    def _entries(self, condition: Condition | None) -> Sequence[Entry]:
        # A list: another thread may add rows.
        return _passing(condition, list(self._store.store.values()))


def _passing(condition: Condition | None, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries that pass the filter."""
    if condition is None:
        return entries
    passes = _check_callable(condition)
    return [entry for entry in entries if passes(_document(entry))]


def _document(entry: Entry) -> Document:
    metadata = dict(entry["metadata"] or {})
    return Document(id=entry["id"], page_content=entry["text"], metadata=metadata)


def _vectors(entries: Sequence[Entry]) -> Array:
    vectors = [entry["vector"] for entry in entries]
    try:
        return np.array(vectors, dtype=np.float64) if vectors else np.empty((0, 0))
    except ValueError as error:
        dimensions = sorted({len(vector) for vector in vectors})
        if len(dimensions) == 1:
            raise
        raise DimensionMismatch(
            f"the InMemoryVectorStore holds vectors of {' and '.join(map(str, dimensions))} "
            "dimensions: add its texts again with one model"
        ) from error


def _rows(entries: Sequence[Entry]) -> Rows:
    return Rows([_document(entry) for entry in entries], _vectors(entries), len(entries))


def _check_callable(condition: Condition) -> Condition:
    if callable(condition):
        return condition
    raise InvalidFilter(
        f"InMemoryVectorStore filters with a function of a document, got {type(condition).__name__}"
    )
