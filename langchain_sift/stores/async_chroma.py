"""Store and search documents in a Chroma server with coroutines."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import httpx
import numpy as np
from chromadb.api import AsyncClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.errors import ChromaError, NotFoundError
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.checks import check_count
from langchain_sift.errors import ArgumentError, StoreTimeout, StoreUnavailable
from langchain_sift.stores.adapters.chroma import ChromaSearch
from langchain_sift.stores.adapters.chroma_filters import Filter, conditions_of
from langchain_sift.stores.adapters.chroma_rows import INCLUDE, parts_of, rows_of
from langchain_sift.stores.async_collection import AsyncCollectionHandle, search_rows
from langchain_sift.stores.interface import ROWS_PER_CALL


def _only_async(instead: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(
            f"only coroutines can use AsyncChroma: await {instead}(...), or `ainvoke`"
        )

    return refuse


def _not_implemented(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError(
        "AsyncChroma returns neither scores nor MMR's choice: use SIFTRetriever with "
        "search_type='mmr', or its aretrieve_with_scores for similarities"
    )


class AsyncChroma(VectorStore):
    """A Chroma collection behind `chromadb.AsyncHttpClient`: no thread waits for the server.

    `langchain_chroma.Chroma` accepts such a client and fails at the first call. This store has
    the asynchronous methods of a vector store, except those that return scores or rank by MMR;
    all other methods raise NotImplementedError.

    Instantiate:
        ```python
        client = await chromadb.AsyncHttpClient(host="localhost", port=8000)
        store = AsyncChroma(client, "facts", embeddings)
        retriever = SIFTRetriever(vectorstore=store, k=5)
        documents = await retriever.ainvoke("What is known about X?")
        await store.aclose()
        ```

    One store serves any number of event loops, and has separate connections in each; `aclose`
    closes the connections of the running loop.
    """

    def __init__(
        self,
        client: AsyncClientAPI,
        collection_name: str,
        embedding_function: Embeddings | None = None,
    ) -> None:
        """Refer to a collection; nothing is sent yet.

        Args:
            client: The result of `await chromadb.AsyncHttpClient(...)`.
            collection_name: The collection; `aadd_texts` makes it, a search does not.
            embedding_function: The embeddings that filled the collection.
        """
        if not isinstance(client, AsyncClientAPI):
            raise TypeError(
                f"client must be `await chromadb.AsyncHttpClient(...)`, got {type(client).__name__}"
            )
        self._handle = AsyncCollectionHandle(client, collection_name)
        self._embeddings = embedding_function

    @property
    def embeddings(self) -> Embeddings | None:
        """The embedding function."""
        return self._embeddings

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int = ROWS_PER_CALL,
        **kwargs: object,
    ) -> list[str]:
        """Embed and store texts, in batches of the size that the server allows.

        Args:
            texts: The texts to store.
            metadatas: Metadata of each text.
            ids: Id of each text; a text whose id exists is replaced. None means random ids.
            batch_size: Maximum number of texts in a batch; LangChain's `aindex` sets it.
            **kwargs: Refused.

        Returns:
            The ids.

        Raises:
            ArgumentError: If there are more or fewer metadatas or ids than texts, or `batch_size`
                is below 1. Nothing is stored.
        """
        _refuse(kwargs)
        check_count("batch_size", batch_size)
        embedder = self._embedder("texts")
        texts, may_exist = list(texts), ids is not None
        _check_lengths(len(texts), metadatas=metadatas, ids=ids)
        ids = [id_ or str(uuid.uuid4()) for id_ in ids or [""] * len(texts)]
        if not texts:
            return ids
        vectors = await embedder.aembed_documents(texts)
        client = self._handle.client()
        collection = await self._handle.get_or_create(client)
        # Chroma Cloud names a larger size than it allows.
        size = min(await client.get_max_batch_size(), ROWS_PER_CALL, batch_size)
        new = metadatas or [{} for _ in texts]
        for start in range(0, len(texts), size):
            batch = slice(start, start + size)
            old = await _metadata_keys(collection, ids[batch]) if may_exist else {}
            # Chroma keeps the keys of an existing row that are not set to None.
            complete = [
                {**dict.fromkeys(old.get(id_, ())), **(metadata or {})}
                for id_, metadata in zip(ids[batch], new[batch], strict=True)
            ]
            await collection.upsert(
                ids=ids[batch],
                embeddings=vectors[batch],  # type: ignore[arg-type]
                documents=texts[batch],
                # Chroma takes no empty dictionary.
                metadatas=[metadata or None for metadata in complete] if any(complete) else None,  # type: ignore[misc]
            )
        return ids

    async def adelete(self, ids: list[str] | None = None, **kwargs: object) -> bool:
        """Delete rows; ids that do not exist are ignored."""
        _refuse(kwargs)
        if not ids:
            raise ValueError("ids must not be empty: to delete everything, delete the collection")
        try:
            for part in parts_of(ids):
                await self._handle.call(partial(_delete, ids=part))
        except NotFoundError:
            return False
        return True

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of these ids; ids that do not exist are ignored."""
        documents: list[Document] = []
        try:
            for part in parts_of(list(dict.fromkeys(ids))):
                response = await self._handle.call(partial(_get, ids=part))
                documents += rows_of(response).documents
        except NotFoundError:
            return []
        return documents

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,
        where_document: Filter | None = None,
        **kwargs: object,
    ) -> list[Document]:
        """Return the k documents nearest to the query; the filters are those of Chroma."""
        embedding = await self._embedder("a query").aembed_query(query)
        return await self.asimilarity_search_by_vector(
            embedding, k, filter=filter, where_document=where_document, **kwargs
        )

    async def asimilarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Filter | None = None,
        where_document: Filter | None = None,
        **kwargs: object,
    ) -> list[Document]:
        """Return the k documents nearest to a vector; the filters are those of Chroma."""
        _refuse(kwargs)
        conditions = conditions_of(filter, where_document)
        search = ChromaSearch.on(self._handle.server, np.array([embedding]), k, conditions)
        try:
            rows = await self._handle.call(lambda collection: search_rows(collection, search))
        except NotFoundError:
            return []
        return list(rows[0].documents)

    async def aheartbeat(self, *, timeout: float) -> None:
        """Ping the server once.

        Raises:
            StoreTimeout: If it does not answer within `timeout` seconds.
            StoreUnavailable: If it cannot be reached, or is overloaded.
        """
        label = self._handle.label
        try:
            async with asyncio.timeout(timeout):
                await self._handle.client(timeout).heartbeat()
        except (TimeoutError, httpx.TimeoutException) as error:
            raise StoreTimeout(
                f"{label}: no heartbeat of the server within {timeout:g} s"
            ) from error
        except (ChromaError, ValueError, httpx.HTTPError) as error:
            raise StoreUnavailable(
                f"{label}: no heartbeat of the server: {type(error).__name__}"
            ) from error

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._handle.close()

    def _embedder(self, for_what: str) -> Embeddings:
        if self._embeddings is None:
            raise ValueError(
                f"AsyncChroma was opened without embedding_function and cannot embed {for_what}"
            )
        return self._embeddings

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
        **kwargs: object,
    ) -> AsyncChroma:
        """Store texts in a collection of the server and refer to it."""
        _refuse(kwargs)
        if client is None:
            raise ValueError("client is required: await chromadb.AsyncHttpClient(...)")
        store = cls(client, collection_name, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_texts(cls, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: see `afrom_texts`."""
        _only_async("afrom_texts")(*args, **kwargs)

    add_texts = _only_async("aadd_texts")
    delete = _only_async("adelete")
    get_by_ids = _only_async("aget_by_ids")
    similarity_search = _only_async("asimilarity_search")
    similarity_search_by_vector = _only_async("asimilarity_search_by_vector")
    similarity_search_with_score = asimilarity_search_with_score = _not_implemented
    similarity_search_with_relevance_scores = _not_implemented
    asimilarity_search_with_relevance_scores = _not_implemented
    max_marginal_relevance_search = amax_marginal_relevance_search = _not_implemented
    max_marginal_relevance_search_by_vector = _not_implemented
    amax_marginal_relevance_search_by_vector = _not_implemented


async def _get(collection: AsyncCollection, ids: list[str]) -> Any:
    return await collection.get(ids=ids, include=INCLUDE)


async def _delete(collection: AsyncCollection, ids: list[str]) -> None:
    await collection.delete(ids=ids)


async def _metadata_keys(
    collection: AsyncCollection, ids: list[str]
) -> Mapping[str, Collection[str]]:
    """Return the metadata keys of the rows that exist, by id."""
    response = await collection.get(ids=ids, include=["metadatas"])
    metadatas = response["metadatas"] or []
    return {id_: metadata or () for id_, metadata in zip(response["ids"], metadatas, strict=True)}


def _check_lengths(count: int, **lists: Collection[object] | None) -> None:
    """Check that each list, unless it is empty, has an item for each of the texts."""
    for name, items in lists.items():
        if items and len(items) != count:
            raise ArgumentError(f"{name} needs one for each text: {len(items)} for {count} texts")


def _refuse(arguments: Mapping[str, object]) -> None:
    if arguments:
        raise TypeError(f"AsyncChroma takes no arguments {sorted(arguments)}")
