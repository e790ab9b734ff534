"""Define the interface of a vector store's adapter, and find the adapter of a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import StoreError
from langchain_sift.selection.arguments import Array

Result = TypeVar("Result")

ROWS_PER_CALL = 300
"""Maximum number of rows that one call reads, adds or deletes: the limit of Chroma Cloud."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a store: documents and their vectors."""

    documents: Sequence[Document]
    """The documents, with their ids."""

    vectors: Array
    """Shape (n, d), as stored."""

    seen: int
    """Number of rows that the store returned, rows without a text included. If the store's limit
    cut the answer off, the number of rows requested."""

    limit: int | None = None
    """Maximum number of rows in an answer, if the store is known to have one. To an adapter that
    sets it, `nearest` may be called with `excluded` texts, for rows beyond the limit."""

    are_units: bool = False
    """If True, the vectors have unit norm and are not scaled again."""

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at these indices."""
        documents = [self.documents[index] for index in indices]
        return replace(self, documents=documents, vectors=self.vectors[list(indices)])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of several answers as one."""
        vectors = [part.vectors for part in parts if part.documents]
        return cls(
            documents=[document for part in parts for document in part.documents],
            vectors=np.concatenate(vectors) if vectors else np.empty((0, 0)),
            seen=sum(part.seen for part in parts),
        )


@dataclass(frozen=True, slots=True)
class Nearest:
    """A request for the rows nearest to each of some directions; the answer is a list of Rows."""

    directions: Array
    """Shape (j, d); as long as the vectors of the query, for stores that compare by distance."""

    count: int
    """Maximum number of rows for each direction."""

    excluded: tuple[str, ...] = ()
    """Texts whose rows are not wanted, the most frequent first. The store may exclude some of
    them only, and other rows that resemble them."""

    def arguments(self) -> Mapping[str, Any]:
        """Return the keyword arguments for `nearest` that only some adapters take."""
        return {"excluded": self.excluded} if self.excluded else {}


@dataclass(frozen=True, slots=True)
class Page:
    """A request for a part of all rows; the answer is Rows and the next cursor, None at the end."""

    cursor: Any
    """None for the first page; later, the cursor that came with the page before."""

    size: int
    """Maximum number of rows."""


@dataclass(frozen=True, slots=True)
class ById:
    """A request for the rows of some ids; the answer is Rows, in any order.

    The answer lacks ids that the store does not hold, and rows that the filter of the search
    excludes. The answer is None if the adapter has no `by_ids`.
    """

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A source of values beside the store, such as a docstore or embeddings."""

    label: str
    """Its name in messages."""

    read: Callable[[list[Any]], Sequence[Any]]
    """Returns one value for each of some keys."""

    aread: Callable[[list[Any]], Awaitable[Sequence[Any]]]
    """The same as a coroutine."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A request for values of a source; the answer is a mapping from keys to values."""

    source: Source
    keys: tuple[Any, ...]


Request = Nearest | Page | ById | Lookup
Search = Generator[Request, Any, Result]
"""A generator that yields requests, is sent the answers, and returns its result."""


@runtime_checkable
class StoreAdapter(Protocol):
    """Reads documents with their vectors from one kind of store.

    An adapter is made for each retrieval and keeps nothing beyond it. It raises
    `StoreUnavailable` for a failure that a second try may mend, and puts no text of a document
    into a message.

    An adapter may also have `by_ids(ids, *, timeout, **search) -> Rows`, and an asynchronous one
    `aby_ids`: the rows of at most 300 ids that the store holds and the filter passes, in any
    order. A second retriever beside a filter needs it.

    It may have `unread`, a text or None: what of the store only a second retriever searches.
    `SIFTRetriever` warns with it if there is none.
    """

    @property
    def label(self) -> str:
        """Name the store in messages, as "Chroma collection 'facts'"."""

    @property
    def search_arguments(self) -> Collection[str] | None:
        """Name the keyword arguments that a search takes. None means that the store checks them."""

    def nearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """Return, for each direction, at most `count` rows, nearest first.

        Args:
            directions: Shape (j, d); as long as the vectors of the query, for stores that
                compare by distance: "nearest" is by the store's own metric.
            count: At least 1.
            timeout: Seconds after which the caller no longer waits for the answer.
            **search: The arguments in `search_arguments`; `filter` is None or a filter. And
                `excluded`, if `Rows.limit` is set: texts whose rows are not wanted. An adapter that
                cannot exclude any raises `InvalidFilter`, and the search ends with what it has.
        """

    def page(self, cursor: Any, size: int, *, timeout: float, **search: Any) -> tuple[Rows, Any]:
        """Return the rows after `cursor`, at most `size`, and the next cursor or None."""

    def conjunction(self, first: Any, second: Any) -> Any:
        """Return a filter that passes what both filters pass; neither is empty."""


@runtime_checkable
class AsyncStoreAdapter(Protocol):
    """Reads documents from a store that only coroutines can query."""

    @property
    def label(self) -> str:
        """As in `StoreAdapter`."""

    @property
    def search_arguments(self) -> Collection[str] | None:
        """As in `StoreAdapter`."""

    async def anearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """As `StoreAdapter.nearest`."""

    async def apage(
        self, cursor: Any, size: int, *, timeout: float, **search: Any
    ) -> tuple[Rows, Any]:
        """As `StoreAdapter.page`."""

    def conjunction(self, first: Any, second: Any) -> Any:
        """As in `StoreAdapter`."""


AnyAdapter = StoreAdapter | AsyncStoreAdapter

# By the full name of the store's class, so that a store's package is imported only if there is a
# store of it: the module of the adapter, and its class.
_BUILT_IN = {
    "langchain_chroma.vectorstores.Chroma": ("chroma", "ChromaAdapter"),
    "langchain_sift.stores.async_chroma.AsyncChroma": ("async_chroma", "AsyncChromaAdapter"),
    "langchain_core.vectorstores.in_memory.InMemoryVectorStore": ("in_memory", "InMemoryAdapter"),
    "langchain_community.vectorstores.faiss.FAISS": ("faiss", "FAISSAdapter"),
    "langchain_qdrant.qdrant.QdrantVectorStore": ("qdrant", "QdrantAdapter"),
    "langchain_core.vectorstores.base.VectorStore": ("re_embedding", "ReEmbeddingAdapter"),
}
_registered: dict[str, Callable[[Any], AnyAdapter]] = {}


def register_adapter(
    vectorstore_class: type[VectorStore], adapter: Callable[[Any], AnyAdapter]
) -> None:
    """Use an adapter for all stores of a class and of its subclasses.

    Args:
        vectorstore_class: The class of the stores.
        adapter: Takes such a store and returns a `StoreAdapter` or an `AsyncStoreAdapter`;
            usually the adapter's class. It is called for every retrieval.
    """
    _registered[_full_name(vectorstore_class)] = adapter


def adapter_for(vectorstore: VectorStore) -> AnyAdapter:
    """Return the adapter for the class of the store, or for the nearest of its ancestors."""
    for ancestor in type(vectorstore).__mro__:
        name = _full_name(ancestor)
        if name in _registered:
            return _registered[name](vectorstore)
        if name in _BUILT_IN:
            module, class_name = _BUILT_IN[name]
            adapter: Callable[[Any], AnyAdapter] = getattr(
                import_module(f"langchain_sift.stores.adapters.{module}"), class_name
            )
            return adapter(vectorstore)
    raise TypeError(
        f"vectorstore must be a LangChain VectorStore, got {type(vectorstore).__name__}"
    )


def blocking_adapter_for(
    vectorstore: VectorStore, *, cure: str = "open the store with a blocking client"
) -> StoreAdapter:
    """Return the adapter of a store that threads can query.

    Args:
        vectorstore: The store.
        cure: Advice for the message, if only coroutines can query the store.

    Raises:
        StoreError: If only coroutines can query the store.
    """
    adapter = adapter_for(vectorstore)
    if not isinstance(adapter, StoreAdapter):
        raise StoreError(f"only coroutines can query {adapter.label}: {cure}")
    return adapter


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
