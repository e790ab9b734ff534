"""Start a Chroma server for all tests, and forbid unsafe calls of its client."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import chromadb
import pytest
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.api.models.Collection import Collection
from chromadb.api.models.CollectionCommon import CollectionCommon
from integration_tests.corpus import TEXTS, RandomEmbeddings
from integration_tests.servers import HOST, FaultyProxy, Server
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings

from langchain_sift.stores import AsyncChroma


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow network access to this machine only."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.allow_hosts([HOST]))


@pytest.fixture(autouse=True)
def no_embedding_function_of_the_server() -> Iterator[None]:
    """Fail a test in which Chroma's client embeds a text or reads a collection's configuration.

    Both would build, in this process, the embedding function that the server names.
    """
    with (
        mock.patch.object(Collection, "query", _never_texts(Collection.query)),
        mock.patch.object(AsyncCollection, "query", _never_texts(AsyncCollection.query)),
        mock.patch.object(CollectionCommon, "configuration", property(_never)),
    ):
        yield


def _never_texts(query: Any) -> Any:
    def checked(collection: Any, **arguments: Any) -> Any:
        if arguments.get("query_texts") or not arguments.get("query_embeddings"):
            pytest.fail(f"a query with {sorted(arguments)}")
        return query(collection, **arguments)

    return checked


def _never(_: Any) -> None:
    pytest.fail("the configuration was read")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server that no test may stop."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def stoppable_server(tmp_path: Path) -> Iterator[Server]:
    """Start a server that the test may stop."""
    with Server(tmp_path) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    """Return a proxy of the server."""
    faulty = FaultyProxy(server.port)
    yield faulty
    faulty.close()


@pytest.fixture
def name() -> str:
    """Return a new name for a collection."""
    return f"facts-{uuid.uuid4()}"


def put_texts(client: Any, name: str, texts: list[str] = TEXTS, dimensions: int = 8) -> Chroma:
    """Add texts to a collection, numbered in id and metadata."""
    return Chroma.from_texts(
        texts,
        RandomEmbeddings(dimensions),
        [{"number": number} for number in range(len(texts))],
        [f"id-{number}" for number in range(len(texts))],
        client=client,
        collection_name=name,
    )


def close(client: Any) -> None:
    """Close a `chromadb.HttpClient` with its connections, which its `close` leaves open."""
    client.close()
    for owner in (client, client._admin_client):
        owner._server._session.close()


@pytest.fixture(scope="module")
def filled(server: Server) -> Iterator[str]:
    """Return the name of a collection with the texts, which no test may change."""
    client = chromadb.HttpClient(host=HOST, port=server.port)
    yield put_texts(client, f"facts-{uuid.uuid4()}")._collection_name
    close(client)


@pytest.fixture
def connect() -> Iterator[Callable[[int], Any]]:
    """Return a function that connects a `chromadb.HttpClient`."""
    clients = []

    def connected(port: int) -> Any:
        clients.append(chromadb.HttpClient(host=HOST, port=port))
        return clients[-1]

    yield connected
    for client in clients:
        close(client)


@pytest.fixture
async def aconnect() -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """Return a function that connects a `chromadb.AsyncHttpClient`."""
    clients = []

    async def connected(port: int) -> Any:
        clients.append(await chromadb.AsyncHttpClient(host=HOST, port=port))
        return clients[-1]

    yield connected
    for client in clients:
        await client._server._cleanup()


@pytest.fixture
def fill(connect: Callable[[int], Any]) -> Callable[..., Chroma]:
    """Return a function that adds texts to a collection of a server."""
    return lambda port, name, *texts: put_texts(connect(port), name, *texts)


OpenStore = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["HttpClient", "AsyncHttpClient"])
async def open_store(
    request: pytest.FixtureRequest,
    connect: Callable[[int], Any],
    aconnect: Callable[[int], Awaitable[Any]],
) -> AsyncIterator[OpenStore]:
    """Return a function that opens a collection, with the client or the asynchronous client."""
    stores: list[AsyncChroma] = []

    async def opened(port: int, name: str, embeddings: Embeddings | None = None) -> Any:
        embeddings = embeddings or RandomEmbeddings()
        if request.param == "HttpClient":
            return Chroma(client=connect(port), collection_name=name, embedding_function=embeddings)
        stores.append(AsyncChroma(await aconnect(port), name, embeddings))
        return stores[-1]

    yield opened
    for store in stores:
        await store.aclose()
