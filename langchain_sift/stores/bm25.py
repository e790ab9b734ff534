"""Search the texts of a vector store by their words, with BM25."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from langchain_sift.checks import check_count, check_seconds
from langchain_sift.errors import require
from langchain_sift.report.words import words_of
from langchain_sift.stores.calls import arun, run
from langchain_sift.stores.interface import (
    ROWS_PER_CALL,
    Page,
    Search,
    adapter_for,
    blocking_adapter_for,
)

Tokenizer = Callable[[str], Sequence[str]]


class StoreBM25Retriever(BaseRetriever):
    """Retrieves the documents of a vector store that share rare words with the query.

    The index is in memory. It is built from all documents of the store at the first query, and
    again by `refresh`; documents that are added later are not in it before that. Copies of a text
    are ranked together.

    Setup:
        `pip install 'langchain-sift[hybrid]'`

    Instantiate:
        ```python
        from langchain_sift import SIFTRetriever
        from langchain_sift.stores import StoreBM25Retriever

        by_words = StoreBM25Retriever(vectorstore=store)
        retriever = SIFTRetriever(vectorstore=store, second_retriever=by_words)
        ```

    One retriever serves many threads.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    vectorstore: VectorStore
    """The store. Chroma, InMemoryVectorStore, FAISS and Qdrant can be read from end to end; of
    other stores, those with an adapter."""

    k: int = 50
    """Maximum number of different texts to return. Texts without a word of the query are not
    returned."""

    filter: Any = None
    """Filter of the documents, in the store's form. None means all documents."""

    tokenizer: Tokenizer = Field(default=words_of, repr=False)
    """Splits documents and queries into words. The default: letters and digits, in lower case; in a
    script without spaces between words, each character."""

    timeout: float = 60.0
    """Seconds for reading the store."""

    _index: _Index | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _loading: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )

    @field_validator("k")
    @classmethod
    def _check_k(cls, k: int) -> int:
        check_count("k", k)
        return k

    @field_validator("timeout")
    @classmethod
    def _check_timeout(cls, timeout: float) -> float:
        check_seconds("timeout", timeout)
        return timeout

    @model_validator(mode="after")
    def _check_package(self) -> StoreBM25Retriever:
        require("hybrid", "rank_bm25")
        return self

    def refresh(self) -> None:
        """Read the store again and build the index anew; searches go on with the old one.

        Raises:
            StoreError: If the store cannot be read.
        """
        adapter = blocking_adapter_for(self.vectorstore, cure="use `await arefresh()`")
        documents = run(
            every_document(), adapter, timeout=self.timeout, arguments={"filter": self.filter}
        )
        self._index = _Index.of(documents, self.tokenizer)

    async def arefresh(self) -> None:
        """Do as `refresh` does, without blocking the event loop."""
        documents = await arun(
            every_document(),
            adapter_for(self.vectorstore),
            store=self.vectorstore,
            timeout=self.timeout,
            arguments={"filter": self.filter},
        )
        self._index = await run_in_executor(None, _Index.of, documents, self.tokenizer)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        """Return the documents by their BM25 score, best first."""
        del run_manager
        if self._index is None:
            with self._lock:  # of many first queries, one reads the store
                if self._index is None:
                    self.refresh()
        return self._search(query)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        """Do as `_get_relevant_documents` does, without blocking the event loop."""
        del run_manager
        if self._index is None:
            loop = asyncio.get_running_loop()
            async with self._loading.setdefault(loop, asyncio.Lock()):
                if self._index is None:  # of many first queries, one reads the store
                    await self.arefresh()
        return await run_in_executor(None, self._search, query)

    def _search(self, query: str) -> list[Document]:
        if self._index is None:  # `refresh` sets it
            return []
        return self._index.search(self.tokenizer(query), self.k)


Postings = Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
"""For each word, the rows that have it and what it adds to their scores."""


@dataclass(frozen=True, slots=True)
class _Index:
    """The documents of a store by text, and the words of the texts."""

    documents: tuple[tuple[Document, ...], ...]
    """The documents of each text that has a word."""

    postings: Postings

    @classmethod
    def of(cls, documents: Sequence[Document], tokenizer: Tokenizer) -> _Index:
        """Build the index."""
        copies: dict[str, list[Document]] = {}
        for document in documents:
            copies.setdefault(document.page_content, []).append(document)
        tokens = {text: list(tokenizer(text)) for text in copies}
        texts = [text for text in copies if tokens[text]]
        postings = postings_of([tokens[text] for text in texts]) if texts else {}
        return cls(tuple(tuple(copies[text]) for text in texts), postings)

    def search(self, tokens: Sequence[str], k: int) -> list[Document]:
        """Return copies of the documents of the k best texts, best first."""
        scores = np.zeros(len(self.documents))
        # In a small store, BM25 gives a shared word a negative weight.
        has_word = np.zeros(len(self.documents), dtype=bool)
        for word in tokens:
            if word in self.postings:
                rows, weights = self.postings[word]
                scores[rows] += weights
                has_word[rows] = True
        sharing = np.flatnonzero(has_word)
        best = sharing[np.argsort(-scores[sharing], kind="stable")[:k]]
        found = [document for row in best.tolist() for document in self.documents[row]]
        return [d.model_copy(update={"metadata": dict(d.metadata)}) for d in found]


def postings_of(corpus: Sequence[Sequence[str]]) -> Postings:
    """Return the weights of words in texts, those of `BM25Okapi`.

    Okapi BM25: Robertson & Zaragoza (2009), The Probabilistic Relevance Framework. `get_scores` of
    `BM25Okapi` visits every text for every word of a query; these weights name the texts of a word.

    Args:
        corpus: The words of each text, at least one each.
    """
    from rank_bm25 import BM25Okapi  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    index = BM25Okapi(corpus)
    lengths = index.k1 * (1.0 - index.b + index.b * np.array(index.doc_len) / index.avgdl)
    rows_of: dict[str, list[tuple[int, int]]] = {}
    for row, counts in enumerate(index.doc_freqs):
        for word, count in counts.items():
            rows_of.setdefault(word, []).append((row, count))
    postings = {}
    for word, pairs in rows_of.items():
        rows, counts = np.array(pairs, dtype=np.int64).T
        weights = index.idf[word] * counts * (index.k1 + 1.0) / (counts + lengths[rows])
        postings[word] = (rows, weights)
    return postings


def every_document() -> Search[list[Document]]:
    """Read all documents of a store, page by page."""
    documents: list[Document] = []
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, ROWS_PER_CALL)
        documents += rows.documents
        if cursor is None:
            return documents
