"""Chroma over HTTP, asked by coroutines."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import httpx
import numpy as np
from chromadb.api import AsyncClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import ChromaError, NotFoundError
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import StoreTimeout, StoreUnavailable
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.adapters.chroma import (
    FEW,
    INCLUDE,
    Found,
    conditions_of,
    parts_of,
    raise_if_overloaded,
    rows_of_get,
    rows_of_query,
)

Answer = TypeVar("Answer")


def _only_async(instead: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            f"AsyncChroma is asked by coroutines alone: await {instead}(...), or `ainvoke`"
        )

    return refuse


def _not_there(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(
        "AsyncChroma searches by nearness alone: SIFTRetriever has search_type='mmr', and "
        "aretrieve_with_scores for similarities"
    )


class AsyncChroma(VectorStore):
    """A Chroma collection behind `chromadb.AsyncHttpClient`: no thread waits for the server.

    `langchain_chroma.Chroma` takes such a client and fails at the first call. This store has
    the asynchronous methods of a vector store, but for those that return scores or rank by MMR;
    the others raise.

    Instantiate:
        ```python
        client = await chromadb.AsyncHttpClient(host="localhost", port=8000)
        store = AsyncChroma(client, "facts", embeddings)
        retriever = SIFTRetriever(vectorstore=store, k=5)
        documents = await retriever.ainvoke("What is known about X?")
        await store.aclose()
        ```

    Serves any event loop, one after another or several at once, and has connections of its own
    in each; `aclose` closes those of the loop that it is called in.
    """

    def __init__(
        self,
        client: AsyncClientAPI,
        collection_name: str,
        embedding_function: Embeddings | None = None,
    ) -> None:
        """Refer to a collection; nothing is asked yet.

        Args:
            client: What `await chromadb.AsyncHttpClient(...)` returns.
            collection_name: Made by the first `aadd_texts`; a search does not make it.
            embedding_function: The embeddings that filled the collection.
        """
        if not isinstance(client, AsyncClientAPI):
            raise TypeError(
                f"client must be `await chromadb.AsyncHttpClient(...)`, got {type(client).__name__}"
            )
        self._client = client
        self._name = collection_name
        self._label = f"Chroma collection {collection_name!r}"
        self._embeddings = embedding_function
        self._collection: AsyncCollection | None = None
        self._connections: dict[asyncio.AbstractEventLoop, dict[int, httpx.AsyncClient]] = {}

    @property
    def embeddings(self) -> Embeddings | None:
        """The embeddings given."""
        return self._embeddings

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and store texts, in batches of the size that the server allows.

        Args:
            texts: What to store.
            metadatas: One for each text.
            ids: One for each text; a text whose id is there is replaced. Random if None.
            **kwargs: None is known.

        Returns:
            The ids.
        """
        _refuse(kwargs)
        if self._embeddings is None:
            raise ValueError(
                "AsyncChroma was opened without embedding_function and cannot embed texts"
            )
        texts, may_be_there = list(texts), ids is not None
        ids = [id_ or str(uuid.uuid4()) for id_ in ids or [""] * len(texts)]
        if not texts:
            return ids
        vectors = await self._embeddings.aembed_documents(texts)
        client = self._here()
        collection = await client.get_or_create_collection(self._name, embedding_function=None)
        self._collection = _through(self._client, collection)
        collection = _through(client, collection)
        batch = await client.get_max_batch_size()
        new = metadatas or [{} for _ in texts]
        for start in range(0, len(texts), batch):
            part = slice(start, start + batch)
            old = await _keys(collection, ids[part]) if may_be_there else {}
            # A row that is written again keeps what it is not told to forget.
            whole = [
                {**dict.fromkeys(old.get(id_, ())), **(metadata or {})}
                for id_, metadata in zip(ids[part], new[part], strict=True)
            ]
            await collection.upsert(
                ids=ids[part],
                embeddings=vectors[part],  # type: ignore[arg-type]
                documents=texts[part],
                # Chroma takes no empty dictionary.
                metadatas=[metadata or None for metadata in whole] if any(whole) else None,  # type: ignore[misc]
            )
        return ids

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete rows; ids that are not there are passed over."""
        _refuse(kwargs)
        if not ids:
            raise ValueError("ids must be given: to delete everything, delete the collection")
        try:
            await self._ask(lambda collection: collection.delete(ids=ids))
        except NotFoundError:
            return False
        return True

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of these ids, those that are there."""
        different = list(dict.fromkeys(ids))
        if not different:
            return []
        try:
            found = await self._ask(
                lambda collection: collection.get(ids=different, include=INCLUDE)
            )
        except NotFoundError:
            return []
        return list(rows_of_get(found).documents)

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the k documents nearest to the query."""
        if self._embeddings is None:
            raise ValueError(
                "AsyncChroma was opened without embedding_function and cannot embed a query"
            )
        embedding = await self._embeddings.aembed_query(query)
        return await self.asimilarity_search_by_vector(embedding, k, **kwargs)

    async def asimilarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return the k documents nearest to a vector; the filters are those of Chroma."""
        _refuse(kwargs)
        conditions = conditions_of(filter, where_document)
        try:
            found = await self._ask(_query(np.array([embedding]), k, conditions))
        except NotFoundError:
            return []
        return list(rows_of_query(*found)[0].documents)

    async def aheartbeat(self, *, timeout: float) -> None:
        """Ask the server whether it is there; once.

        Raises:
            StoreTimeout: If it says nothing for so many seconds.
            StoreUnavailable: If it cannot be reached, or is overloaded.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._here(timeout).heartbeat()
        except (TimeoutError, httpx.TimeoutException) as error:
            raise StoreTimeout(
                f"{self._label}: no heartbeat of the server within {timeout:g} s"
            ) from error
        except (ChromaError, ValueError, httpx.HTTPError) as error:
            raise StoreUnavailable(
                f"{self._label}: no heartbeat of the server: {type(error).__name__}"
            ) from error

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for client in self._connections.pop(asyncio.get_running_loop(), {}).values():
            await client.aclose()

    async def _ask(
        self,
        operation: Callable[[AsyncCollection], Awaitable[Answer]],
        timeout: float | None = None,
    ) -> Answer:
        """Do something with the collection, which may have been deleted and made again."""
        client = self._here(timeout)
        if self._collection is not None:
            with suppress(NotFoundError):
                return await operation(_through(client, self._collection))
        # Not `get_or_create`: a search that makes an empty collection hides the mistake.
        collection = await client.get_collection(self._name, embedding_function=None)
        self._collection = _through(self._client, collection)
        return await operation(_through(client, collection))

    def _here(self, timeout: float | None = None) -> AsyncClientAPI:
        """Return the client with connections for the running event loop.

        Chroma keeps them for the whole process, by the hash of the loop alone: a later loop of
        the same hash gets connections that are dead, and a client with other headers, such as
        another tenant's token, gets those of the first.
        """
        for loop in list(self._connections):  # another thread's loop may come meanwhile
            if loop.is_closed():
                self._connections.pop(loop, None)
        client = copy.copy(self._client)
        server = copy.copy(client._server)  # type: ignore[attr-defined]
        server._clients = self._connections.setdefault(asyncio.get_running_loop(), {})
        connect = server._get_client
        server._get_client = lambda: _PatientClient(connect(), timeout, self._label)
        client._server = server  # type: ignore[attr-defined]
        return client

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        client: AsyncClientAPI | None = None,
        collection_name: str = "langchain",
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncChroma:
        """Store texts in a collection of the client's and refer to it."""
        _refuse(kwargs)
        if client is None:
            raise ValueError("client must be given: await chromadb.AsyncHttpClient(...)")
        store = cls(client, collection_name, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: see `afrom_texts`."""
        _only_async("afrom_texts")(*args, **kwargs)

    add_texts = _only_async("aadd_texts")
    delete = _only_async("adelete")
    get_by_ids = _only_async("aget_by_ids")
    similarity_search = _only_async("asimilarity_search")
    similarity_search_by_vector = _only_async("asimilarity_search_by_vector")
    similarity_search_with_score = asimilarity_search_with_score = _not_there
    similarity_search_with_relevance_scores = _not_there
    asimilarity_search_with_relevance_scores = _not_there
    max_marginal_relevance_search = amax_marginal_relevance_search = _not_there
    max_marginal_relevance_search_by_vector = _not_there
    amax_marginal_relevance_search_by_vector = _not_there


async def _keys(collection: AsyncCollection, ids: list[str]) -> dict[str, Iterable[str]]:
    """Return the keys of the metadata of the rows that are there."""
    found = await collection.get(ids=ids, include=["metadatas"])
    metadatas = found["metadatas"] or []
    return {id_: own or () for id_, own in zip(found["ids"], metadatas, strict=True)}


def _through(client: AsyncClientAPI, collection: AsyncCollection) -> AsyncCollection:
    """Return the same collection, asked through this client.

    Without the schema that the server stores: Chroma reads it before every write, and builds
    in this process the embedding functions that it names.
    """
    collection = copy.copy(collection)
    collection._client = client._server  # type: ignore[attr-defined]
    collection._model = copy.copy(collection._model)
    collection._model.serialized_schema = None
    return collection


def _query(
    directions: Array, count: int, conditions: dict[str, Any]
) -> Callable[[AsyncCollection], Awaitable[tuple[Found, list[Any] | None]]]:
    """Return what `ChromaAdapter.nearest` asks, to be asked by coroutines."""
    many = len(directions) > FEW

    async def query(collection: AsyncCollection) -> tuple[Found, list[Any] | None]:
        found: Any = await collection.query(
            query_embeddings=list(directions.astype(np.float32)),
            n_results=count,
            include=[] if many else INCLUDE,
            **conditions,
        )
        if not many:
            return found, None
        return found, [
            await collection.get(ids=part, include=INCLUDE, **conditions)
            for part in parts_of(found["ids"])
        ]

    return query


class _PatientClient:
    """The server's HTTP client, that waits for so long, and no longer."""

    def __init__(self, client: httpx.AsyncClient, timeout: float | None, label: str) -> None:
        self._client, self._timeout, self._label = client, timeout, label

    async def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        response = await self._client.request(method, url, timeout=self._timeout, **arguments)
        raise_if_overloaded(response, self._label)
        return response


def _refuse(arguments: dict[str, Any]) -> None:
    if arguments:
        raise TypeError(f"AsyncChroma does not know {sorted(arguments)}")
