"""Reach a Chroma collection with coroutines, from any event loop."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import httpx
from chromadb.api import AsyncClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import NotFoundError

from langchain_sift.stores.adapters.chroma import ChromaSearch
from langchain_sift.stores.adapters.chroma_errors import raise_if_overloaded
from langchain_sift.stores.interface import Rows

Result = TypeVar("Result")

# Maximum number of concurrent requests of one event loop. HTTPX looks through all connections at
# each event of each request: with hundreds it does little else.
_MAX_CONCURRENT = 16
_FIND_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Connections:
    """The connections of one event loop, and what its tasks wait for."""

    clients: dict[int, httpx.AsyncClient] = field(default_factory=dict)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_CONCURRENT))
    finding: asyncio.Lock = field(default_factory=asyncio.Lock)


class AsyncCollectionHandle:
    """A collection by its name, and the connections of each event loop.

    Chroma keeps connections for the whole process, by the hash of the loop only: a later loop of
    the same hash gets dead connections, and a client with other headers, such as the token of
    another tenant, gets those of the first client. The handle keeps its own connections.
    """

    def __init__(self, client: AsyncClientAPI, name: str) -> None:
        """Refer to a collection; nothing is sent yet."""
        self.label = f"Chroma collection {name!r}"
        self._client = client
        self._name = name
        self._collection: AsyncCollection | None = None
        self._connections: dict[asyncio.AbstractEventLoop, _Connections] = {}

    @property
    def server(self) -> Any:
        """The server's interface in Chroma's client."""
        return self._client._server  # type: ignore[attr-defined]

    async def call(
        self,
        operation: Callable[[AsyncCollection], Awaitable[Result]],
        timeout: float | None = None,
    ) -> Result:
        """Call an operation on the collection, which may have been deleted and made again.

        Args:
            operation: Takes the collection.
            timeout: Seconds for each HTTP request. None means no limit.
        """
        client, known = self.client(timeout), self._collection
        if known is not None:
            with suppress(NotFoundError):
                return await operation(_through(client, known))
        return await operation(_through(client, await self._find(known, timeout)))

    async def _find(self, known: AsyncCollection | None, timeout: float | None) -> AsyncCollection:
        """Find the collection by its name; one task does so for all that wait for it.

        Args:
            known: The collection that the caller has found to be missing.
            timeout: As in `call`.
        """
        async with self._of_loop().finding:
            if self._collection is known or self._collection is None:
                # A request without an end would leave all others waiting.
                client = self.client(_FIND_SECONDS if timeout is None else timeout)
                # Not `get_or_create`: a search that makes an empty collection hides the mistake.
                found = await client.get_collection(self._name, embedding_function=None)
                return self._remember(client, found)
            return self._collection

    async def get_or_create(self, client: AsyncClientAPI) -> AsyncCollection:
        """Return the collection through this client, made if it does not exist."""
        collection = await client.get_or_create_collection(self._name, embedding_function=None)
        return self._remember(client, collection)

    def client(self, timeout: float | None = None) -> AsyncClientAPI:
        """Return the client with connections of the running event loop.

        Args:
            timeout: Seconds for each HTTP request. None means no limit.
        """
        connections = self._of_loop()
        client = copy.copy(self._client)
        server = copy.copy(client._server)  # type: ignore[attr-defined]
        server._clients = connections.clients
        connect = server._get_client
        # A request without a timeout may hang: it takes no turn, and others must not wait for it.
        turns = nullcontext() if timeout is None else connections.turns
        server._get_client = lambda: _ClientWithTimeout(connect(), timeout, turns, self.label)
        client._server = server  # type: ignore[attr-defined]
        return client

    def _of_loop(self) -> _Connections:
        """Return the connections of the running event loop, and drop those of closed loops."""
        for loop in list(self._connections):  # another thread may add its loop meanwhile
            if loop.is_closed():
                self._connections.pop(loop, None)
        return self._connections.setdefault(asyncio.get_running_loop(), _Connections())

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        connections = self._connections.pop(asyncio.get_running_loop(), _Connections())
        for client in connections.clients.values():
            await client.aclose()

    def _remember(self, client: AsyncClientAPI, collection: AsyncCollection) -> AsyncCollection:
        self._collection = _through(self._client, collection)
        return _through(client, collection)


async def search_rows(collection: AsyncCollection, search: ChromaSearch) -> list[Rows]:
    """Search the collection for all directions."""
    response = await collection.query(**search.arguments)
    parts = [await collection.get(**arguments) for arguments in search.missing(response)]
    total = await collection.count() if search.may_lack_rows(response) else 0
    return search.rows(response, parts, total)


def _through(client: AsyncClientAPI, collection: AsyncCollection) -> AsyncCollection:
    """Return the same collection, reached through this client.

    The copy lacks the schema that the server stores: Chroma reads it before every write, and
    builds in this process the embedding functions that it names.
    """
    collection = copy.copy(collection)
    collection._client = client._server  # type: ignore[attr-defined]
    collection._model = copy.copy(collection._model)
    collection._model.serialized_schema = None
    return collection


class _ClientWithTimeout:
    """The server's HTTP client, with a timeout for each request, which waits for its turn."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        timeout: float | None,
        turns: AbstractAsyncContextManager[None],
        label: str,
    ) -> None:
        self._request = partial(client.request, timeout=timeout)
        self._turns = turns
        self._label = label

    async def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        async with self._turns:
            response = await self._request(*args, **kwargs)
        raise_if_overloaded(response, self._label)
        return response
