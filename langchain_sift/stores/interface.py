"""What is asked of a vector store, and which adapter asks it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.selection.arguments import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Documents and their vectors, side by side, as the store holds them."""

    documents: Sequence[Document]
    """With their ids."""

    vectors: Array
    """Shape (n, d); not normalised."""

    seen: int
    """How many rows the store answered with, those without a text included."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """A request for the rows nearest to each of several directions; answered by a list of Rows."""

    directions: Array
    """Shape (j, d); as long as the vectors of the query, for stores that compare by distance."""

    count: int
    """How many rows for each."""


@dataclass(frozen=True, slots=True)
class Page:
    """A request for a part of all rows; answered by Rows and the next cursor, None at the end."""

    cursor: Any
    """None for the first page; later, what came with the page before."""

    size: int


@runtime_checkable
class StoreAdapter(Protocol):
    """How one kind of store is asked for documents with their vectors.

    An adapter is made for each retrieval and keeps nothing beyond it. It raises
    `StoreUnavailable` for what a second try may mend, and no text of a document goes into a
    message.
    """

    @property
    def label(self) -> str:
        """Name the store in messages, as "Chroma collection 'facts'"."""

    @property
    def search_arguments(self) -> Collection[str] | None:
        """Name the keyword arguments that a search takes; None if the store must judge."""

    def nearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """Return, for each direction, at most `count` rows, nearest first.

        Args:
            directions: Shape (j, d); as long as the vectors of the query, for stores that
                compare by distance: "nearest" is by the store's own metric.
            count: At least 1.
            timeout: Seconds after which nobody waits for the answer any more.
            **search: What `search_arguments` names; `filter` is None or a filter.
        """

    def page(self, cursor: Any, size: int, *, timeout: float, **search: Any) -> tuple[Rows, Any]:
        """Return the rows after `cursor`, at most `size`, and the next cursor or None."""

    def conjunction(self, first: Any, second: Any) -> Any:
        """Return a filter that passes what both filters pass; neither is empty."""


@runtime_checkable
class AsyncStoreAdapter(Protocol):
    """The same for a store that only coroutines can ask."""

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

# By the full name of the store's class, so that no store's package is imported before a store
# of it is at hand: where the adapter is, and what it is called.
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
    """Have every store of a class, and of its subclasses, asked through an adapter.

    Args:
        vectorstore_class: The class of the stores.
        adapter: Takes such a store and returns a `StoreAdapter` or an `AsyncStoreAdapter`;
            usually its class. Called for every retrieval.
    """
    _registered[_full_name(vectorstore_class)] = adapter


def adapter_for(vectorstore: VectorStore) -> AnyAdapter:
    """Return the adapter for the class of the store, or for the nearest of its ancestors."""
    for ancestor in type(vectorstore).__mro__:
        name = _full_name(ancestor)
        if name in _registered:
            return _registered[name](vectorstore)
        if name in _BUILT_IN:
            module, adapter = _BUILT_IN[name]
            found: Callable[[Any], AnyAdapter] = getattr(
                import_module(f"langchain_sift.stores.adapters.{module}"), adapter
            )
            return found(vectorstore)
    raise TypeError(
        f"vectorstore must be a LangChain VectorStore, got {type(vectorstore).__name__}"
    )


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
