"""Chroma over HTTP, asked by coroutines."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import httpx
import numpy as np
from chromadb.api import AsyncClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import ChromaError, NotFoundError
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.stores.adapter import Array, Rows
from langchain_sift.stores.chroma import (
    raise_if_overloaded,
    rows_of_get,
    rows_of_query,
    typed,
    where,
)

_INCLUDE: Any = ["documents", "metadatas", "embeddings"]


class AsyncChroma(VectorStore):
    """A Chroma collection behind `chromadb.AsyncHttpClient`: no thread waits for the server.

    `langchain_chroma.Chroma` takes such a client and fails at the first call. This store has
    the asynchronous methods of a vector store; the others raise.

    Instantiate:
        ```python
        client = await chromadb.AsyncHttpClient(host="localhost", port=8000)
        store = AsyncChroma(client, "facts", embeddings)
        retriever = SIFTRetriever(vectorstore=store, k=5)
        documents = await retriever.ainvoke("What is known about X?")
        ```
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
        self._client = client
        self._name = collection_name
        self._embeddings = embedding_function
        self._collection: AsyncCollection | None = None

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
            msg = "AsyncChroma was opened without embedding_function and cannot embed texts"
            raise ValueError(msg)
        texts = list(texts)
        ids = [id_ or str(uuid.uuid4()) for id_ in ids or [""] * len(texts)]
        if not texts:
            return ids
        vectors = await self._embeddings.aembed_documents(texts)
        self._collection = await self._client.get_or_create_collection(
            self._name, embedding_function=None
        )
        batch = await self._client.get_max_batch_size()
        for start in range(0, len(texts), batch):
            part = slice(start, start + batch)
            await self._collection.upsert(
                ids=ids[part],
                embeddings=vectors[part],  # type: ignore[arg-type]
                documents=texts[part],
                # Chroma takes no empty dictionary.
                metadatas=[metadata or None for metadata in metadatas[part]]  # type: ignore[misc]
                if metadatas and any(metadatas[part])
                else None,
            )
        return ids

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete rows; ids that are not there are passed over."""
        _refuse(kwargs)
        if not ids:
            msg = "ids must be given: to delete everything, delete the collection"
            raise ValueError(msg)
        try:
            await (await self._open()).delete(ids=ids)
        except NotFoundError:
            return False
        return True

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of these ids, those that are there."""
        try:
            found = await (await self._open()).get(ids=list(ids), include=_INCLUDE)
        except NotFoundError:
            return []
        return list(rows_of_get(found).documents)

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the k documents nearest to the query."""
        if self._embeddings is None:
            msg = "AsyncChroma was opened without embedding_function and cannot embed a query"
            raise ValueError(msg)
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
        search = {"filter": filter, "where_document": where_document}
        try:
            rows = await _nearest(await self._open(), np.array([embedding]), k, **search)
        except NotFoundError:
            return []
        return list(rows[0].documents)

    async def _open(self) -> AsyncCollection:
        if self._collection is None:
            self._collection = await self._client.get_collection(
                self._name, embedding_function=None
            )
        return self._collection

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
            msg = "client must be given: await chromadb.AsyncHttpClient(...)"
            raise ValueError(msg)
        store = cls(client, collection_name, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: see `afrom_texts`."""
        del args, kwargs
        _only_async("afrom_texts")

    def add_texts(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: see `aadd_texts`."""
        del args, kwargs
        _only_async("aadd_texts")

    def similarity_search(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: see `asimilarity_search`."""
        del args, kwargs
        _only_async("asimilarity_search")


class AsyncChromaAdapter:
    """Asks the collection itself, as `ChromaAdapter` does."""

    search_arguments = ("filter", "where_document")

    def __init__(self, vectorstore: AsyncChroma) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = f"Chroma collection {vectorstore._name!r}"

    async def anearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """Ask once for all directions."""

        async def query(collection: AsyncCollection) -> list[Rows]:
            return await _nearest(collection, directions, count, **search)

        rows: list[Rows] = await self._call(query, timeout)
        return rows

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

        async def get(collection: AsyncCollection) -> Rows:
            return rows_of_get(
                await collection.get(
                    limit=size,
                    offset=offset,
                    where=where(filter),
                    where_document=where_document or None,  # type: ignore[arg-type]
                    include=_INCLUDE,
                )
            )

        rows: Rows = await self._call(get, timeout)
        return rows, offset + size if rows.seen == size else None

    def conjunction(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """Return both under one "$and"."""
        return {"$and": [where(first), where(second)]}

    async def _call(self, operation: Any, timeout: float) -> Any:
        try:
            try:
                return await operation(_patient(await self._store._open(), timeout))
            except NotFoundError:  # deleted, or deleted and made again
                self._store._collection = None
                return await operation(_patient(await self._store._open(), timeout))
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error


async def _nearest(
    collection: AsyncCollection,
    directions: Array,
    count: int,
    *,
    filter: dict[str, Any] | None = None,
    where_document: dict[str, Any] | None = None,
) -> list[Rows]:
    found = await collection.query(
        query_embeddings=list(directions.astype(np.float32)),
        n_results=count,
        where=where(filter),
        where_document=where_document or None,  # type: ignore[arg-type]
        include=_INCLUDE,
    )
    return rows_of_query(found)


class _PatientClient:
    """The server's HTTP client, that waits for so long, and no longer."""

    def __init__(self, client: httpx.AsyncClient, timeout: float) -> None:
        self._client, self._timeout = client, timeout

    async def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        response = await self._client.request(method, url, timeout=self._timeout, **arguments)
        raise_if_overloaded(response)
        return response


def _patient(collection: AsyncCollection, timeout: float) -> AsyncCollection:
    """Return a handle that ends its calls and knows when the server is overloaded."""
    server, collection = copy.copy(collection._client), copy.copy(collection)
    connect = server._get_client  # type: ignore[attr-defined]
    server._get_client = lambda: _PatientClient(connect(), timeout)  # type: ignore[attr-defined]
    collection._client = server
    return collection


def _only_async(instead: str) -> NoReturn:
    msg = f"AsyncChroma is asked by coroutines alone: await {instead}(...), or `ainvoke`"
    raise NotImplementedError(msg)


def _refuse(arguments: dict[str, Any]) -> None:
    if arguments:
        msg = f"AsyncChroma does not know {sorted(arguments)}"
        raise TypeError(msg)
