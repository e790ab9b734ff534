"""What each method chooses for a prompt, from all that the store holds."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.methods import Method
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import ChosenDocument
from langchain_sift.selection import SELECTORS, Selection, random, select_residual
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import stopping_point
from langchain_sift.stores import Candidates, embeddings_of
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import every_candidate, unit_vector
from langchain_sift.stores.interface import blocking_adapter_for

_READING_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a prompt, in order."""

    chosen: tuple[ChosenDocument, ...]
    texts: tuple[str, ...]
    prior_variance: float
    similarities: Array | None
    """Cosines among the chosen, shape (k, k); None where nobody knows."""

    seconds: float

    def first(self, count: int) -> Choice:
        """Return the choice as it was after so many."""
        among = self.similarities
        return Choice(
            self.chosen[:count],
            self.texts[:count],
            self.prior_variance,
            None if among is None else among[:count, :count],
            self.seconds,
        )

    @property
    def redundancy(self) -> float:
        """Mean over the choices after the first of the highest cosine with one before."""
        among = self.similarities
        if among is None or len(among) < 2:
            return math.nan
        return float(np.mean([row[:n].max() for n, row in enumerate(among) if n]))

    def stops_after(self, alpha: float) -> int:
        """Return after how many documents adaptive SIFT would have stopped."""
        variances = [document.posterior_variance for document in self.chosen]
        return stopping_point(variances, alpha=alpha) or len(self.chosen)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that a store holds, in memory: what is compared are choices, not an index's luck."""

    candidates: Candidates
    embeddings: Embeddings
    ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Give each document an id."""
        ids = tuple(map(identifier, self.candidates.documents))
        object.__setattr__(self, "ids", ids)

    @classmethod
    def read(cls, vectorstore: VectorStore, **search: Any) -> Corpus:
        """Read all documents with their vectors, page by page: 8 bytes a row and dimension.

        Args:
            vectorstore: With embeddings.
            **search: `filter` and what else the store takes.

        Raises:
            StoreError: If the store cannot answer.
            ArgumentError: If it is empty.
        """
        adapter = blocking_adapter_for(vectorstore)
        embeddings = embeddings_of(vectorstore)
        dimensions = len(embeddings.embed_query("a"))
        candidates = run(
            every_candidate(dimensions), adapter, timeout=_READING_TIMEOUT, arguments=search
        )
        if not candidates.documents:
            raise ArgumentError("the store is empty: there is nothing to choose from")
        return cls(candidates, embeddings)

    def embed(self, query: str) -> Array:
        """Return the query's unit vector."""
        return unit_vector(np.asarray(self.embeddings.embed_query(query), dtype=np.float64))

    def nearest(self, query: Array, count: int) -> list[int]:
        """Return the rows of the highest cosines, falling; of equal ones, the first."""
        cosines = self.candidates.embeddings @ query
        if count < len(cosines):
            least = np.partition(cosines, -count)[-count]
            rows = np.flatnonzero(cosines >= least)
        else:
            rows = np.arange(len(cosines))
        order: list[int] = rows[np.argsort(-cosines[rows], kind="stable")][:count].tolist()
        return order

    def choose(
        self,
        method: Method,
        query: Array,
        *,
        k: int,
        fetch_k: int,
        noise_variance: float,
        seed: str,
    ) -> Choice:
        """Choose k documents, and do not stop before.

        Args:
            method: With a selection of this package.
            query: A unit vector, shape (d,).
            k: How many.
            fetch_k: Nearest neighbours that they are chosen from, where the method's search does
                not say otherwise.
            noise_variance: λ', where the method has none of its own.
            seed: Of a random choice.
        """
        began = time.perf_counter()
        arguments: dict[str, Any] = {
            "k": k,
            "noise_variance": method.noise_variance or noise_variance,
            "replace": method.repeats,
        }
        if method.search == "residual":
            rows: list[int] = []
            selection = select_residual(query, partial(self._beside, rows), **arguments)
        else:
            count = len(self.ids) if method.search == "exhaustive" else fetch_k
            rows = self.nearest(query, count)
            selector = SELECTORS[method.selection]
            if selector is random:
                selector = partial(random, seed=zlib.crc32(seed.encode()))
            selection = selector(query, self.candidates.embeddings[rows], **arguments)
        return self._choice(rows, selection, time.perf_counter() - began)

    def _beside(self, found: list[int], directions: Array, count: int) -> Array:
        """Return the vectors of the nearest to directions that were not found before."""
        known = set(found)
        new: list[int] = []
        for direction in directions:
            for row in self.nearest(direction, count):
                if row not in known:
                    known.add(row)
                    new.append(row)
        found += new
        return self.candidates.embeddings[new]

    def _choice(self, rows: Sequence[int], selection: Selection, seconds: float) -> Choice:
        places = [rows[index] for index in selection.indices.tolist()]
        vectors = self.candidates.embeddings[places]
        return Choice(
            chosen=tuple(
                ChosenDocument(self.ids[place], gain, variance, self.candidates.copies[place])
                for place, gain, variance in zip(
                    places,
                    selection.gains.tolist(),
                    selection.posterior_variances.tolist(),
                    strict=True,
                )
            ),
            texts=tuple(self.candidates.documents[place].page_content for place in places),
            prior_variance=selection.prior_variance,
            similarities=vectors @ vectors.T,
            seconds=seconds,
        )


def choose_with(retriever: Runnable[str, list[Document]], query: str, *, k: int) -> Choice:
    """Return what a user's retriever returns, at most k documents.

    Raises:
        ArgumentError: If it returns something else than documents.
    """
    began = time.perf_counter()
    documents = retriever.invoke(query)
    seconds = time.perf_counter() - began
    if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
        raise ArgumentError(
            f"a retriever must return a list of Documents, got {type(documents).__name__}"
        )
    documents = documents[:k]
    return Choice(
        chosen=tuple(ChosenDocument(identifier(d), math.nan, math.nan, 1) for d in documents),
        texts=tuple(document.page_content for document in documents),
        prior_variance=math.nan,
        similarities=None,
        seconds=seconds,
    )


def identifier(document: Document) -> str:
    """Return a document's id, or one made of its text."""
    if document.id is not None:
        return str(document.id)
    return hashlib.sha256(document.page_content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def answer_of(chain: Runnable[Any, Any], question: str) -> str:
    """Return what a user's chain answers.

    Args:
        chain: Takes the question as a string, and returns a string, a message, or a mapping
            with an "answer", as LangChain's retrieval chains do.
        question: As the user would ask it.

    Raises:
        ArgumentError: If it returns none of those.
    """
    found = chain.invoke(question)
    if isinstance(found, Mapping):
        found = found.get("answer")
    text = getattr(found, "text", getattr(found, "content", found))
    if not isinstance(text, str):
        raise ArgumentError(
            f'a chain must return a string, a message or {{"answer": ...}}, got {type(found)!r}'
        )
    return str(text)
