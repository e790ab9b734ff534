"""Read from Chroma, embedded, server or cloud, through `langchain_chroma`.

The searches and the conversions of rows serve the adapter of `AsyncChroma` too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
from chromadb import Collection
from chromadb.api.base_http_client import BaseHTTPClient
from chromadb.api.fastapi import FastAPI
from chromadb.errors import ChromaError, NotFoundError
from langchain_chroma import Chroma

from langchain_sift.errors import QuotaExceeded
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.adapters.chroma_errors import raise_if_overloaded, typed
from langchain_sift.stores.adapters.chroma_filters import (
    Arguments,
    Filter,
    both,
    conditions_of,
    without_texts,
)
from langchain_sift.stores.adapters.chroma_rows import (
    INCLUDE,
    Response,
    distribute,
    id_arguments,
    page_arguments,
    page_of,
    parts_of,
    rows_of,
    rows_of_columns,
)
from langchain_sift.stores.interface import ROWS_PER_CALL, Rows

Result = TypeVar("Result")
# A search in more directions returns ids alone; the rows are read afterwards.
_FEW_DIRECTIONS = 4
CLOUD_HOST = "api.trychroma.com"


class ChromaAdapter:
    """Queries the collection itself.

    The public methods of `Chroma` either embed the query again or leave out the vectors. Neither
    `query_texts` nor `.configuration` is used: both run configuration that the server stores, in
    this process.
    """

    search_arguments = ("filter", "where_document")

    def __init__(self, vectorstore: Chroma) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = f"Chroma collection {vectorstore._collection_name!r}"

    def nearest(
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
        search = ChromaSearch.on(self._store._client._server, directions, count, conditions)
        return self._search(search, timeout)

    def _search(self, search: ChromaSearch, timeout: float) -> list[Rows]:
        def query(collection: Collection) -> list[Rows]:
            response = collection.query(**search.arguments)
            parts = [collection.get(**arguments) for arguments in search.missing(response)]
            total = collection.count() if search.may_lack_rows(response) else 0
            return search.rows(response, parts, total)

        try:
            return self._call(query, timeout)
        except QuotaExceeded as refusal:
            smaller = search.smaller(refusal)
            return [rows for part in smaller for rows in self._search(part, timeout)]

    def page(
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
        response = self._call(lambda collection: collection.get(**arguments), timeout)
        return page_of(response, cursor, size)

    def by_ids(
        self,
        ids: Sequence[str],
        *,
        timeout: float,
        filter: Filter | None = None,
        where_document: Filter | None = None,
    ) -> Rows:
        """Read the rows of these ids that pass the filter."""
        arguments = id_arguments(ids, conditions_of(filter, where_document))
        return rows_of(self._call(lambda collection: collection.get(**arguments), timeout))

    def conjunction(self, first: Filter, second: Filter) -> Filter:
        """Return both filters under one "$and"."""
        return both(first, second)

    def _call(self, operation: Callable[[Collection], Result], timeout: float) -> Result:
        collection = self._store._chroma_collection
        try:
            if collection is None:
                collection = self._find_again(timeout)
            try:
                return operation(self._with_timeout(collection, timeout))
            except NotFoundError:
                # Another process or another handle has deleted the collection, and may have made
                # a new one of the same name.
                return operation(self._with_timeout(self._find_again(timeout), timeout))
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error

    def _find_again(self, timeout: float) -> Collection:
        client = copy.copy(self._store._client)
        client._server = self._server_with_timeout(client._server, timeout)
        # Not `get_or_create`: a search that makes an empty collection hides the mistake.
        collection: Collection = client.get_collection(
            self._store._collection_name, embedding_function=None
        )
        collection._client = self._store._client._server
        # The store's own methods then work again too.
        self._store._chroma_collection = collection
        return collection

    def _with_timeout(self, collection: Collection, timeout: float) -> Collection:
        collection = copy.copy(collection)
        collection._client = self._server_with_timeout(collection._client, timeout)
        return collection

    def _server_with_timeout(self, server: Any, timeout: float) -> Any:
        """Return a server whose HTTP calls have a timeout; Chroma's wait without a limit."""
        if not isinstance(server, FastAPI):
            return server  # embedded: no HTTP
        with_timeout: Any = copy.copy(server)
        with_timeout._session = _SessionWithTimeout(server._session, timeout, self.label)
        return with_timeout


class _SessionWithTimeout:
    """A server's HTTP session, with a timeout for each request."""

    def __init__(self, session: httpx.Client, timeout: float, label: str) -> None:
        self._request = partial(session.request, timeout=timeout)
        self._label = label

    def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        response = self._request(*args, **kwargs)
        raise_if_overloaded(response, self._label)
        return response


@dataclass(frozen=True, slots=True)
class ChromaSearch:
    """One search for several directions, as arguments of Chroma's calls and their responses.

    For many directions the search returns ids only, and each row is read once afterwards: most
    of the time goes into the transfer of vectors, and near directions share neighbours.
    """

    directions: Array
    """Shape (j, d)."""

    count: int
    """Number of rows wanted for each direction."""

    conditions: Arguments
    """See `conditions_of`."""

    limit: int | None = None
    """See `Rows.limit`."""

    allowed: int | None = None
    """Number of rows to request instead of `count`, if the store allows no more."""

    @classmethod
    def on(cls, server: Any, directions: Array, count: int, conditions: Arguments) -> Self:
        """Return a search of a server, which has a limit if it is Chroma Cloud."""
        is_server = isinstance(server, BaseHTTPClient)
        if is_server and urlsplit(server.get_api_url()).hostname == CLOUD_HOST:
            allowed = min(count, ROWS_PER_CALL)
            return cls(directions, count, conditions, limit=ROWS_PER_CALL, allowed=allowed)
        return cls(directions, count, conditions)

    @property
    def arguments(self) -> Arguments:
        """Arguments of `Collection.query`."""
        return {
            "query_embeddings": list(self.directions.astype(np.float32)),
            "n_results": self.allowed or self.count,
            "include": [] if self._ids_only else INCLUDE,
            **self.conditions,
        }

    def smaller(self, refusal: QuotaExceeded) -> list[ChromaSearch]:
        """Return smaller searches in place of one that exceeded a quota of the store.

        Raises:
            QuotaExceeded: The refusal itself, if it concerns neither rows nor directions.
        """
        if "embedding" in refusal.quota.lower() and 0 < refusal.limit < len(self.directions):
            starts = range(0, len(self.directions), refusal.limit)
            parts = [self.directions[start : start + refusal.limit] for start in starts]
            return [replace(self, directions=part) for part in parts]
        limit = refusal.limit or ROWS_PER_CALL
        if limit < (self.allowed or self.count):
            return [replace(self, allowed=limit, limit=limit)]
        raise refusal

    def missing(self, response: Response) -> list[Arguments]:
        """Return the arguments of the calls of `Collection.get` that read the missing rows."""
        if not self._ids_only:
            return []
        ids = list(dict.fromkeys(id_ for answer in response["ids"] for id_ in answer))
        # Under the same conditions: a row may have changed meanwhile.
        return [id_arguments(part, self.conditions) for part in parts_of(ids)]

    def may_lack_rows(self, response: Response) -> bool:
        """Return True if an answer is short, though the collection may have more rows.

        Among thousands of equal vectors, Chroma's index finds fewer rows than requested.
        """
        return (
            self.allowed is None
            and not any(self.conditions.values())
            and any(ROWS_PER_CALL <= len(ids) < self.count for ids in response["ids"])
        )

    def rows(self, response: Response, parts: Sequence[Response], total: int) -> list[Rows]:
        """Convert the responses to the rows of each direction.

        Args:
            response: The response of the search.
            parts: The responses to `missing`.
            total: Number of rows in the collection if the answers may lack rows, and else 0.
        """
        if self._ids_only:
            answers = distribute(response, parts)
        else:
            # For an empty collection Chroma returns empty lists, or None.
            texts = response["documents"] or [[] for _ in response["ids"]]
            metadatas = response["metadatas"] or texts
            vectors = response["embeddings"] if response["embeddings"] is not None else texts
            columns = zip(response["ids"], texts, metadatas, vectors, strict=True)
            answers = [rows_of_columns(*answer) for answer in columns]
        return [
            replace(rows, limit=self.limit, seen=self._seen(rows.seen, total)) for rows in answers
        ]

    def _seen(self, returned: int, total: int) -> int:
        """Return the number of rows asked for, if the store has more than it returned."""
        is_cut_off = returned == self.allowed or returned < min(self.count, total)
        return self.count if is_cut_off else returned

    @property
    def _ids_only(self) -> bool:
        return len(self.directions) > _FEW_DIRECTIONS
