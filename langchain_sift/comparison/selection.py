"""Choose the documents of each method, among all documents of a store."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.settings import Retriever
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import ChosenDocument
from langchain_sift.retrieval.exact import ExactIndex, choose_exactly
from langchain_sift.retrieval.settings import RetrievalSettings, method_of
from langchain_sift.selection import SELECTORS, random
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import stopping_point
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import Candidates, every_candidate
from langchain_sift.stores.interface import blocking_adapter_for, embeddings_of

_READING_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """The documents that a method chose for a prompt, in the order of choice."""

    chosen: tuple[ChosenDocument, ...]
    texts: tuple[str, ...]
    prior_variance: float

    similarities: Array | None
    """Cosines among the chosen, shape (k, k). None if they are not known."""

    seconds: float

    def first(self, count: int) -> MethodChoice:
        """Return the first documents of the choice."""
        among = self.similarities
        return replace(
            self,
            chosen=self.chosen[:count],
            texts=self.texts[:count],
            similarities=None if among is None else among[:count, :count],
        )

    @property
    def redundancy(self) -> float:
        """Mean over the choices after the first of the highest cosine with an earlier one."""
        among = self.similarities
        if among is None or len(among) < 2:
            return math.nan
        return float(np.mean([row[:n].max() for n, row in enumerate(among) if n]))

    def stopping_point(self, alpha: float) -> int:
        """Return the number of documents after which adaptive SIFT would stop."""
        variances = [document.posterior_variance for document in self.chosen]
        return stopping_point(variances, alpha=alpha) or len(self.chosen)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents of a store, in memory, searched exactly.

    A comparison must not depend on an approximate index.
    """

    candidates: Candidates
    embeddings: Embeddings
    index: ExactIndex = field(init=False)
    ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Index the documents, and give each an id."""
        object.__setattr__(self, "index", ExactIndex(self.candidates))
        object.__setattr__(self, "ids", tuple(map(identifier, self.candidates.documents)))

    @classmethod
    def read(cls, vectorstore: VectorStore, filter: Mapping[str, object] | None) -> Corpus:
        """Read all documents with their vectors, 8 bytes for each row and dimension.

        Args:
            vectorstore: A store with embeddings.
            filter: Filter of the store. None means all documents.

        Raises:
            StoreError: If the store cannot answer.
            ArgumentError: If the store is empty.
        """
        adapter = blocking_adapter_for(vectorstore)
        embeddings = embeddings_of(vectorstore)
        dimensions = len(embeddings.embed_query("a"))
        arguments = {} if filter is None else {"filter": dict(filter)}
        candidates = run(
            every_candidate(dimensions), adapter, timeout=_READING_TIMEOUT, arguments=arguments
        )
        if not candidates.documents:
            raise ArgumentError("the store is empty: there is nothing to choose from")
        return cls(candidates, embeddings)

    def embed(self, query: str) -> Array:
        """Embed a query, shape (d,)."""
        return np.asarray(self.embeddings.embed_query(query), dtype=np.float64)

    def choose(
        self,
        method: Method,
        query: Array,
        *,
        k: int,
        fetch_k: int,
        noise_variance: float,
        seed: str,
    ) -> MethodChoice:
        """Choose k documents, without adaptive stopping.

        Args:
            method: A method with a selection of this package.
            query: The embedding of the query, shape (d,).
            k: Number of documents.
            fetch_k: Number of nearest neighbours to choose from, for the search "nearest".
            noise_variance: λ', if the method sets none.
            seed: Seed of a random choice.

        Raises:
            EmbeddingError: If the query's vector is zero, not finite, or of another dimension.
        """
        selector = SELECTORS[method.selection]
        if selector is random:
            selector = partial(random, seed=zlib.crc32(seed.encode()))
        settings = RetrievalSettings(
            method=method_of(selector),
            k=k,
            fetch_k=fetch_k,
            noise_variance=method.noise_variance or noise_variance,
            candidate_search=method.search,
            replace=method.repeats,
        )
        choice = choose_exactly(self.index, settings, query[None])
        selection, rows = choice.selection, choice.selection.indices.tolist()
        vectors = self.candidates.embeddings[rows]
        chosen = zip(
            rows, selection.gains.tolist(), selection.posterior_variances.tolist(), strict=True
        )
        return MethodChoice(
            chosen=tuple(
                ChosenDocument(self.ids[row], gain, variance, self.candidates.copies[row])
                for row, gain, variance in chosen
            ),
            texts=tuple(self.candidates.documents[row].page_content for row in rows),
            prior_variance=selection.prior_variance,
            similarities=vectors @ vectors.T,
            seconds=choice.seconds,
        )


def choose_with(retriever: Retriever, query: str, *, k: int) -> MethodChoice:
    """Choose with a retriever of the user's, at most k documents.

    Raises:
        ArgumentError: If it does not return a list of documents.
    """
    began = time.perf_counter()
    documents = retriever.invoke(query)
    seconds = time.perf_counter() - began
    if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
        raise ArgumentError(
            f"a retriever must return a list of Documents, got {type(documents).__name__}"
        )
    documents = documents[:k]
    return MethodChoice(
        chosen=tuple(ChosenDocument(identifier(d), math.nan, math.nan, 1) for d in documents),
        texts=tuple(document.page_content for document in documents),
        prior_variance=math.nan,
        similarities=None,
        seconds=seconds,
    )


def identifier(document: Document) -> str:
    """Return the id of a document; without an id, a hash of its text."""
    if document.id is not None:
        return str(document.id)
    return hashlib.sha256(document.page_content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
