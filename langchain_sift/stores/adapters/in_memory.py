"""Read from LangChain's `InMemoryVectorStore`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift.errors import DimensionMismatch, InvalidFilter
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows

Condition = Callable[[Document], bool]


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
        """Compare each direction with every vector."""
        del timeout
        rows = self._rows(filter)
        # The caller raises the error for vectors of another dimension, and leaves zero ones out.
        if not rows.documents or rows.vectors.shape[1] != directions.shape[1]:
            return [rows for _ in directions]
        with np.errstate(divide="ignore", invalid="ignore"):
            units = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
        answers = []
        for similarities in directions @ units.T:
            nearest = np.argsort(-similarities, kind="stable")[:count]
            documents = [rows.documents[row] for row in nearest]
            answers.append(Rows(documents, rows.vectors[nearest], len(nearest)))
        return answers

    def page(
        self, cursor: None, size: int, *, timeout: float, filter: Condition | None = None
    ) -> tuple[Rows, None]:
        """Return all rows, whatever the size: they are in memory already."""
        del cursor, size, timeout
        return self._rows(filter), None

    def by_ids(
        self, ids: Sequence[str], *, timeout: float, filter: Condition | None = None
    ) -> Rows:
        """Return the rows of these ids that pass the filter."""
        del timeout
        entries = [self._store.store.get(id_) for id_ in ids]
        return self._rows(filter, [entry for entry in entries if entry is not None])

    def conjunction(self, first: Condition, second: Condition) -> Condition:
        """Return a function that is true if both are."""
        left, right = _check_callable(first), _check_callable(second)
        return lambda document: left(document) and right(document)

    def _rows(
        self, condition: Condition | None, entries: Sequence[Mapping[str, Any]] | None = None
    ) -> Rows:
        """Return the rows that pass the filter, of these entries or of the whole store."""
        passes = _check_callable(condition) if condition is not None else None
        documents, vectors = [], []
        if entries is None:
            entries = list(self._store.store.values())  # another thread may add rows
        for entry in entries:
            document = Document(
                id=entry["id"], page_content=entry["text"], metadata=dict(entry["metadata"] or {})
            )
            if passes is None or passes(document):
                documents.append(document)
                vectors.append(entry["vector"])
        return Rows(documents, _matrix(vectors), len(documents))


def _matrix(vectors: Sequence[Sequence[float]]) -> Array:
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


def _check_callable(condition: Condition) -> Condition:
    if callable(condition):
        return condition
    raise InvalidFilter(
        f"InMemoryVectorStore filters with a function of a document, got {type(condition).__name__}"
    )
