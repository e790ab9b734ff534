"""Read from any other vector store, and embed its texts again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.deadlines import in_thread
from langchain_sift.stores.interface import Rows

_warned: set[type] = set()
# A store without a method of its own inherits these, which raise `NotImplementedError`.
_NO_SEARCH = VectorStore.similarity_search_by_vector
_NO_COROUTINE = VectorStore.asimilarity_search_by_vector


class ReEmbeddingAdapter:
    """Searches by vector and embeds the documents, since LangChain's stores return no vectors.

    This is correct, but slow: each retrieval embeds `fetch_k` texts, each different text once. An
    adapter for the store, added with `register_adapter`, avoids that.
    """

    search_arguments = None
    """The store checks its arguments."""

    def __init__(self, vectorstore: VectorStore) -> None:
        """Keep the store, and warn once for each class of stores."""
        self._store = vectorstore
        self._vectors: dict[str, list[float]] = {}  # a retrieval may meet a text many times
        self.label = type(vectorstore).__name__
        if type(vectorstore) not in _warned and _can_search(type(vectorstore)):
            _warned.add(type(vectorstore))
            warnings.warn(
                f"the vectors of a {self.label} cannot be read: its documents are embedded again "
                "for every retrieval. langchain_sift.stores.register_adapter can change that",
                UserWarning,
                stacklevel=2,
            )

    def nearest(
        self, directions: Array, count: int, *, timeout: float, **search: object
    ) -> list[Rows]:
        """Search for each direction, and embed each different text once."""
        del timeout
        embeddings, arguments = self._embeddings(), _without_none(search)
        try:
            answers = [
                self._store.similarity_search_by_vector(direction.tolist(), k=count, **arguments)
                for direction in directions
            ]
        except NotImplementedError as error:
            raise StoreError(
                f"{self.label} cannot be searched by vector: put a SIFTReranker over its "
                "as_retriever()"
            ) from error
        new = self._new_texts(answers)
        if new:
            self._vectors.update(zip(new, embeddings.embed_documents(new), strict=True))
        return self._rows(answers)

    async def anearest(
        self, directions: Array, count: int, *, timeout: float, **search: object
    ) -> list[Rows]:
        """Do as `nearest` does, with the coroutines of the store if it has any."""
        if type(self._store).asimilarity_search_by_vector is _NO_COROUTINE:
            search_in_thread = partial(self.nearest, directions, count, timeout=timeout, **search)
            return await in_thread(search_in_thread)
        embeddings, arguments = self._embeddings(), _without_none(search)
        answers = [
            await self._store.asimilarity_search_by_vector(direction.tolist(), k=count, **arguments)
            for direction in directions
        ]
        new = self._new_texts(answers)
        if new:
            self._vectors.update(zip(new, await embeddings.aembed_documents(new), strict=True))
        return self._rows(answers)

    def _embeddings(self) -> Embeddings:
        embeddings = self._store.embeddings
        if embeddings is None:
            raise StoreError(
                f"{self.label} has no embedding function, and its vectors cannot be read"
            )
        return embeddings

    def _new_texts(self, answers: list[list[Document]]) -> list[str]:
        texts = dict.fromkeys(d.page_content for documents in answers for d in documents)
        return [text for text in texts if text not in self._vectors]

    def _rows(self, answers: list[list[Document]]) -> list[Rows]:
        return [
            Rows(
                documents,
                np.array([self._vectors[document.page_content] for document in documents])
                if documents
                else np.empty((0, 0)),
                len(documents),
            )
            for documents in answers
        ]

    def page(self, cursor: Any, size: int, *, timeout: float, **search: object) -> tuple[Rows, Any]:
        """Refuse: LangChain has no method that returns every row."""
        del cursor, size, timeout, search
        raise StoreError(
            f"{self.label} cannot be read from end to end: use another candidate_search"
        )

    async def apage(
        self, cursor: Any, size: int, *, timeout: float, **search: object
    ) -> tuple[Rows, Any]:
        """Refuse, as `page` does."""
        return self.page(cursor, size, timeout=timeout, **search)

    def conjunction(self, first: Any, second: Any) -> Any:
        """Refuse: the form of a filter differs from store to store."""
        del first, second
        raise ArgumentError(
            f"the filters of a {self.label} cannot be joined: add an adapter that joins them, with "
            "register_adapter"
        )


def _can_search(store: type[VectorStore]) -> bool:
    return (
        store.similarity_search_by_vector is not _NO_SEARCH
        or store.asimilarity_search_by_vector is not _NO_COROUTINE
    )


def _without_none(search: Mapping[str, object]) -> Mapping[str, Any]:
    return {name: value for name, value in search.items() if value is not None}
