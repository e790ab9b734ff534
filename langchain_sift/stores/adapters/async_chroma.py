"""Adapter of `AsyncChroma`: ask the collection with coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import ChromaError

from langchain_sift.selection.arguments import Array
from langchain_sift.stores.adapters.chroma import (
    INCLUDE,
    conditions_of,
    rows_of_get,
    rows_of_query,
    typed,
    where,
)
from langchain_sift.stores.async_chroma import Answer, AsyncChroma, _query
from langchain_sift.stores.interface import Rows


class AsyncChromaAdapter:
    """Asks the collection itself, as `ChromaAdapter` does."""

    search_arguments = ("filter", "where_document")

    def __init__(self, vectorstore: AsyncChroma) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = vectorstore._label

    async def anearest(
        self,
        directions: Array,
        count: int,
        *,
        timeout: float,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> list[Rows]:
        """Ask once for all directions."""
        conditions = conditions_of(filter, where_document)
        return rows_of_query(*await self._call(_query(directions, count, conditions), timeout))

    async def apage(
        self,
        cursor: int | None,
        size: int,
        *,
        timeout: float,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> tuple[Rows, int | None]:
        """Count the rows already read."""
        offset = cursor or 0
        conditions = conditions_of(filter, where_document)

        async def get(collection: AsyncCollection) -> Any:
            return await collection.get(limit=size, offset=offset, include=INCLUDE, **conditions)

        rows = rows_of_get(await self._call(get, timeout))
        return rows, offset + size if rows.seen == size else None

    def conjunction(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """Return both under one "$and"."""
        return {"$and": [where(first), where(second)]}

    async def _call(
        self, operation: Callable[[AsyncCollection], Awaitable[Answer]], timeout: float
    ) -> Answer:
        try:
            return await self._store._ask(operation, timeout)
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error
