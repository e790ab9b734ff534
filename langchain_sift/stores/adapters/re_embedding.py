"""Any other vector store: it gives its texts, and they are embedded again."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.deadlines import awithin
from langchain_sift.stores.interface import Rows

_warned: set[type] = set()
# Of a store without coroutines of its own.
_BY_A_THREAD = VectorStore.asimilarity_search_by_vector


class ReEmbeddingAdapter:
    """Asks by vector and embeds what comes, since LangChain has no way to ask for vectors.

    Right, and slow: `fetch_k` texts are embedded for each retrieval, each different one once.
    `register_adapter` ends it.
    """

    search_arguments = None
    """What the store takes only the store knows."""

    def __init__(self, vectorstore: VectorStore) -> None:
        """Keep the store, and warn for the first one of its class."""
        self._store = vectorstore
        self._vectors: dict[str, list[float]] = {}  # one retrieval asks for a text many times
        self.label = type(vectorstore).__name__
        if type(vectorstore) not in _warned:
            _warned.add(type(vectorstore))
            warnings.warn(
                f"the vectors of a {self.label} cannot be read: its documents are embedded again "
                "for every retrieval. langchain_sift.stores.register_adapter can change that",
                UserWarning,
                stacklevel=2,
            )

    def nearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """Ask for each direction, and embed every different text once."""
        del timeout
        embeddings, given = self._embeddings(), _given(search)
        try:
            found = [
                self._store.similarity_search_by_vector(direction.tolist(), k=count, **given)
                for direction in directions
            ]
        except NotImplementedError as error:
            raise StoreError(f"{self.label} cannot be searched by vector") from error
        except sqlite3.ProgrammingError as error:
            if "thread" not in str(error):
                raise
            raise StoreError(
                f"{self.label} may only be asked by the thread that opened it: give it a "
                "connection of sqlite3.connect(..., check_same_thread=False)"
            ) from error
        new = self._new_texts(found)
        if new:
            self._vectors.update(zip(new, embeddings.embed_documents(new), strict=True))
        return self._rows(found)

    async def anearest(
        self, directions: Array, count: int, *, timeout: float, **search: Any
    ) -> list[Rows]:
        """Do the same by the store's own coroutines, where it has any."""
        if type(self._store).asimilarity_search_by_vector is _BY_A_THREAD:
            ask = partial(self.nearest, directions, count, timeout=timeout, **search)
            return cast("list[Rows]", await awithin(timeout, ask, self._store))
        embeddings, given = self._embeddings(), _given(search)
        found = [
            await self._store.asimilarity_search_by_vector(direction.tolist(), k=count, **given)
            for direction in directions
        ]
        new = self._new_texts(found)
        if new:
            self._vectors.update(zip(new, await embeddings.aembed_documents(new), strict=True))
        return self._rows(found)

    def _embeddings(self) -> Embeddings:
        embeddings = self._store.embeddings
        if embeddings is None:
            raise StoreError(
                f"{self.label} has no embedding function, and its vectors cannot be read"
            )
        return embeddings

    def _new_texts(self, found: list[list[Document]]) -> list[str]:
        texts = dict.fromkeys(d.page_content for documents in found for d in documents)
        return [text for text in texts if text not in self._vectors]

    def _rows(self, found: list[list[Document]]) -> list[Rows]:
        return [
            Rows(
                documents,
                np.array([self._vectors[document.page_content] for document in documents])
                if documents
                else np.empty((0, 0)),
                len(documents),
            )
            for documents in found
        ]

    def page(self, cursor: Any, size: int, *, timeout: float, **search: Any) -> tuple[Rows, Any]:
        """Refuse: LangChain has no way to ask for every row."""
        del cursor, size, timeout, search
        raise StoreError(
            f"{self.label} cannot be read from end to end: use another candidate_search"
        )

    async def apage(
        self, cursor: Any, size: int, *, timeout: float, **search: Any
    ) -> tuple[Rows, Any]:
        """Refuse, as `page` does."""
        return self.page(cursor, size, timeout=timeout, **search)

    def conjunction(self, first: Any, second: Any) -> Any:
        """Refuse: what a filter is differs from store to store."""
        del first, second
        raise ArgumentError(
            f"the filters of a {self.label} cannot be joined: register_adapter can say how"
        )


def _given(search: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in search.items() if value is not None}
