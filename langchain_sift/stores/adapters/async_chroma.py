"""Read from `AsyncChroma` with coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import ChromaError

from langchain_sift.errors import QuotaExceeded
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.adapters.chroma import ChromaSearch
from langchain_sift.stores.adapters.chroma_errors import typed
from langchain_sift.stores.adapters.chroma_filters import (
    Filter,
    both,
    conditions_of,
    without_texts,
)
from langchain_sift.stores.adapters.chroma_rows import (
    id_arguments,
    page_arguments,
    page_of,
    rows_of,
)
from langchain_sift.stores.async_chroma import AsyncChroma
from langchain_sift.stores.async_collection import search_rows
from langchain_sift.stores.interface import Rows

Result = TypeVar("Result")


class AsyncChromaAdapter:
    """Queries the collection itself, as `ChromaAdapter` does."""

    search_arguments = ("filter", "where_document")

    def __init__(self, vectorstore: AsyncChroma) -> None:
        """Keep the collection of the store."""
        self._handle = vectorstore._handle
        self.label = vectorstore._handle.label

    async def anearest(
        self,
        directions: Array,
        count: int,
        *,
        timeout: float,
        filter: Filter | None = None,
        where_document: Filter | None = None,
        excluded: Sequence[str] = (),
    ) -> list[Rows]:
        """Search once for all directions, or as often as the quotas of the store require."""
        conditions = without_texts(conditions_of(filter, where_document), excluded)
        search = ChromaSearch.on(self._handle.server, directions, count, conditions)
        return await self._search(search, timeout)

    async def _search(self, search: ChromaSearch, timeout: float) -> list[Rows]:
        try:
            return await self._call(lambda collection: search_rows(collection, search), timeout)
        except QuotaExceeded as refusal:
            parts = [await self._search(part, timeout) for part in search.smaller(refusal)]
            return [rows for part in parts for rows in part]

    async def apage(
        self,
        cursor: int | None,
        size: int,
        *,
        timeout: float,
        filter: Filter | None = None,
        where_document: Filter | None = None,
    ) -> tuple[Rows, int | None]:
        """Read the next rows; the cursor counts the rows read so far."""
        arguments = page_arguments(cursor, size, conditions_of(filter, where_document))
        response = await self._call(lambda collection: collection.get(**arguments), timeout)
        return page_of(response, cursor, size)

    async def aby_ids(
        self,
        ids: Sequence[str],
        *,
        timeout: float,
        filter: Filter | None = None,
        where_document: Filter | None = None,
    ) -> Rows:
        """Read the rows of these ids that pass the filter."""
        arguments = id_arguments(ids, conditions_of(filter, where_document))
        return rows_of(await self._call(lambda collection: collection.get(**arguments), timeout))

    def conjunction(self, first: Filter, second: Filter) -> Filter:
        """Return both filters under one "$and"."""
        return both(first, second)

    async def _call(
        self, operation: Callable[[AsyncCollection], Awaitable[Result]], timeout: float
    ) -> Result:
        try:
            return await self._handle.call(operation, timeout)
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error
