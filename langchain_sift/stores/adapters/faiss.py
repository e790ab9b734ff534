"""FAISS through `langchain_community`: the index gives its vectors back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document

from langchain_sift.errors import DimensionMismatch, InvalidFilter, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows

Condition = dict[str, Any] | Callable[[dict[str, Any]], bool]


class FAISSAdapter:
    """Searches the index and reconstructs what it found."""

    search_arguments = ("filter",)

    def __init__(self, vectorstore: FAISS) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = "FAISS"

    def nearest(
        self, directions: Array, count: int, *, timeout: float, filter: Condition | None = None
    ) -> list[Rows]:
        """Search the index once for all directions.

        FAISS itself knows no filter: with one, every row is ranked and then looked at.
        """
        del timeout
        index = self._store.index
        if directions.shape[1] != index.d:
            raise DimensionMismatch(
                f"FAISS index holds {index.d} dimensions, the query has {directions.shape[1]}"
            )
        passes = self._condition(filter)
        total = index.ntotal
        if total == 0:
            return [Rows([], np.empty((0, 0)), 0) for _ in directions]
        asked = min(count, total) if passes is None else total
        _, places = index.search(np.ascontiguousarray(directions, dtype=np.float32), asked)
        # An index that looks at a part of its lists fills up with -1.
        return [self._rows([p for p in row if p >= 0], passes, count) for row in places]

    def page(
        self, cursor: int | None, size: int, *, timeout: float, filter: Condition | None = None
    ) -> tuple[Rows, int | None]:
        """Count the rows already read."""
        del timeout
        start = cursor or 0
        end = min(start + size, self._store.index.ntotal)
        rows = self._rows(list(range(start, end)), self._condition(filter), size)
        return rows, end if end < self._store.index.ntotal else None

    def conjunction(self, first: Condition, second: Condition) -> Condition:
        """Return a function that asks both."""
        one, other = self._condition(first), self._condition(second)
        return lambda metadata: bool(one and one(metadata) and other and other(metadata))

    def _condition(self, filter: Condition | None) -> Callable[[dict[str, Any]], bool] | None:
        if not filter:
            return None
        try:
            passes: Callable[[dict[str, Any]], bool] = self._store._create_filter_func(filter)
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidFilter(f"FAISS does not understand the filter: {error}") from error
        return passes

    def _rows(
        self, places: list[int], passes: Callable[[dict[str, Any]], bool] | None, count: int
    ) -> Rows:
        documents: list[Document] = []
        kept: list[int] = []
        for place in places:
            key = self._store.index_to_docstore_id[int(place)]
            document = self._store.docstore.search(key)
            if not isinstance(document, Document):
                continue  # its text was lost; the store's own search raises here
            if passes is None or passes(document.metadata):
                # A copy: what a caller does to it must not reach the store.
                own = {"id": document.id or key, "metadata": dict(document.metadata)}
                documents.append(document.model_copy(update=own))
                kept.append(int(place))
            if len(kept) == count:
                break
        # With a filter every row was looked at, unless enough of them passed before.
        seen = len(places) if passes is None else len(kept)
        return Rows(documents, self._vectors(kept), seen)

    def _vectors(self, places: list[int]) -> Array:
        index = self._store.index
        vectors = np.empty((len(places), index.d))
        try:
            for row, place in enumerate(places):
                vectors[row] = index.reconstruct(place)
        except RuntimeError as error:
            raise StoreError(
                f"FAISS cannot read vectors back from its {type(index).__name__}: call "
                "make_direct_map() of an IVF index when it is filled, or use another index"
            ) from error
        return vectors
