"""Read from FAISS through `langchain_community`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document

from langchain_sift.errors import DimensionMismatch, InvalidFilter, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows

Predicate = Callable[[dict[str, Any]], bool]
Condition = dict[str, object] | Predicate


class FAISSAdapter:
    """Searches the index, and reconstructs the vectors from it."""

    search_arguments = ("filter",)

    def __init__(self, vectorstore: FAISS) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = "FAISS"

    def nearest(
        self, directions: Array, count: int, *, timeout: float, filter: Condition | None = None
    ) -> list[Rows]:
        """Search the index once for all directions.

        FAISS has no filters: with a filter, every row is ranked and then checked.
        """
        del timeout
        index = self._store.index
        if directions.shape[1] != index.d:
            raise DimensionMismatch(
                f"the FAISS index has {index.d} dimensions, the query has {directions.shape[1]}: "
                "open the store with the embeddings that filled it"
            )
        passes = self._condition(filter)
        total = index.ntotal
        if total == 0:
            return [Rows([], np.empty((0, 0)), 0) for _ in directions]
        requested = min(count, total) if passes is None else total
        _, answers = index.search(np.ascontiguousarray(directions, dtype=np.float32), requested)
        # An index that searches only some of its lists may fill the answer with -1.
        return [
            self._rows([position for position in answer if position >= 0], passes, count)
            for answer in answers
        ]

    def page(
        self, cursor: int | None, size: int, *, timeout: float, filter: Condition | None = None
    ) -> tuple[Rows, int | None]:
        """Read the next rows; the cursor counts the rows read so far."""
        del timeout
        start = cursor or 0
        end = min(start + size, self._store.index.ntotal)
        rows = self._rows(list(range(start, end)), self._condition(filter), size)
        return rows, end if end < self._store.index.ntotal else None

    def by_ids(
        self, ids: Sequence[str], *, timeout: float, filter: Condition | None = None
    ) -> Rows:
        """Return the rows of these ids that pass the filter."""
        del timeout
        wanted = set(ids)
        keys = list(self._store.index_to_docstore_id.items())  # another thread may add rows
        positions = [position for position, key in keys if key in wanted]
        return self._rows(positions, self._condition(filter), len(positions))

    def conjunction(self, first: Condition, second: Condition) -> Condition:
        """Return a function that is true if both are."""
        left, right = self._condition(first), self._condition(second)
        return lambda metadata: bool(left and left(metadata) and right and right(metadata))

    def _condition(self, filter: Condition | None) -> Predicate | None:
        if filter in (None, {}):
            return None
        try:
            passes: Predicate = self._store._create_filter_func(filter)
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidFilter(f"FAISS cannot read the filter: {error}") from error
        return passes

    def _rows(self, positions: list[int], passes: Predicate | None, count: int) -> Rows:
        documents: list[Document] = []
        vectors: list[Array] = []
        for position in map(int, positions):
            try:
                key = self._store.index_to_docstore_id[position]
                document = self._store.docstore.search(key)
            except KeyError:
                continue  # another thread has just deleted the row
            if not isinstance(document, Document):
                continue  # its text was lost; the store's own search would raise here
            if passes is not None and not passes(document.metadata):
                continue
            vector = self._vector(position)
            if vector is None:
                continue
            # A copy: a caller's changes must not reach the store.
            copied = {"id": document.id or key, "metadata": dict(document.metadata)}
            documents.append(document.model_copy(update=copied))
            vectors.append(vector)
            if len(documents) == count:
                break
        # With a filter, every row was checked, unless enough rows passed before.
        seen = len(positions) if passes is None else len(documents)
        matrix = np.array(vectors, dtype=np.float64).reshape(-1, self._store.index.d)
        return Rows(documents, matrix, seen)

    def _vector(self, position: int) -> Array | None:
        """Return the vector at a position. None if another thread has just deleted the row."""
        index = self._store.index
        try:
            vector: Array = index.reconstruct(position)
        except RuntimeError as error:
            if position >= index.ntotal:
                return None
            raise StoreError(
                f"FAISS cannot read vectors back from its {type(index).__name__}: call "
                "make_direct_map() of an IVF index when it is filled, or use another index"
            ) from error
        return vector
