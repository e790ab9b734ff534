"""Any other vector store: it gives its texts, and they are embedded again."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.stores.adapter import Array, Rows

_warned: set[type] = set()


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
        embeddings = self._store.embeddings
        if embeddings is None:
            msg = f"{self.label} has no embedding function, and its vectors cannot be read"
            raise StoreError(msg)
        given = {name: value for name, value in search.items() if value is not None}
        try:
            found = [
                self._store.similarity_search_by_vector(direction.tolist(), k=count, **given)
                for direction in directions
            ]
        except NotImplementedError as error:
            msg = f"{self.label} cannot be searched by vector"
            raise StoreError(msg) from error
        texts = dict.fromkeys(d.page_content for documents in found for d in documents)
        new = [text for text in texts if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, embeddings.embed_documents(new), strict=True))
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
        msg = f"{self.label} cannot be read from end to end: use another candidate_search"
        raise StoreError(msg)

    def conjunction(self, first: Any, second: Any) -> Any:
        """Refuse: what a filter is differs from store to store."""
        del first, second
        msg = f"the filters of a {self.label} cannot be joined: register_adapter can say how"
        raise ArgumentError(msg)
