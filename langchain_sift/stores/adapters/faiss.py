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
        positions = [
            position for position, key in self._store.index_to_docstore_id.items() if key in wanted
        ]
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
        kept: list[int] = []
        for position in positions:
            key = self._store.index_to_docstore_id[int(position)]
            document = self._store.docstore.search(key)
            if not isinstance(document, Document):
                continue  # its text was lost; the store's own search would raise here
            if passes is None or passes(document.metadata):
                # A copy: a caller's changes must not reach the store.
                copied = {"id": document.id or key, "metadata": dict(document.metadata)}
                documents.append(document.model_copy(update=copied))
                kept.append(int(position))
            if len(kept) == count:
                break
        # With a filter, every row was checked, unless enough rows passed before.
        seen = len(positions) if passes is None else len(kept)
        return Rows(documents, self._vectors(kept), seen)

    def _vectors(self, positions: list[int]) -> Array:
        index = self._store.index
        vectors = np.empty((len(positions), index.d))
        try:
            for row, position in enumerate(positions):
                vectors[row] = index.reconstruct(position)
        except RuntimeError as error:
            raise StoreError(
                f"FAISS cannot read vectors back from its {type(index).__name__}: call "
                "make_direct_map() of an IVF index when it is filled, or use another index"
            ) from error
        return vectors
