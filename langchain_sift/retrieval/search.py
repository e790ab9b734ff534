"""Choose documents for one query, for many queries at once, or from vectors in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.retrieval.scores import Retrieval, score, write_gains
from langchain_sift.retrieval.settings import RetrievalSettings
from langchain_sift.selection import Selection
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.batches import together
from langchain_sift.stores.calls import answer_all, arun, run
from langchain_sift.stores.candidates import (
    Candidates,
    every_candidate,
    nearest_candidates,
    residual_candidates,
    unit_queries,
)
from langchain_sift.stores.exact import ExactIndex
from langchain_sift.stores.interface import AnyAdapter, Search, StoreAdapter

# Queries of a batch that are searched for together, within one timeout.
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """The documents chosen for one query."""

    queries: Array
    """The vectors of the query, of unit norm, shape (m, d)."""

    candidates: Candidates
    selection: Selection
    """Indices among the candidates, in the order of choice."""

    settings: RetrievalSettings
    seconds: float
    """Duration of the search and the selection; of a batch, until this query was done."""

    def documents(self, score_key: str | None = None) -> list[Document]:
        """Copy the documents, in the order of choice.

        Args:
            score_key: Key under which the metadata get the gains. None writes none.
        """
        documents = self.candidates.copy_documents(self.selection.indices.tolist())
        if score_key is not None:
            write_gains(documents, self.selection.gains.tolist(), score_key)
        return documents

    def scored(self) -> Retrieval:
        """Return the documents with their scores."""
        return score(self.queries, self.candidates, self.selection)

    def event(self) -> dict[str, object]:
        """Return the data of a "sift_selection" event, as plain values."""
        selection, settings = self.selection, self.settings
        return {
            "ids": [self.candidates.documents[index].id for index in selection.indices],
            "gains": selection.gains.tolist(),
            "posterior_variances": selection.posterior_variances.tolist(),
            "prior_variance": selection.prior_variance,
            "noise_variance": float(settings.noise_variance),
            "candidate_search": settings.candidate_search,
            "fetch_k": settings.fetch_k,
            "candidates": len(self.candidates.documents),
            "seconds": self.seconds,
        }


def split_query(query: str, splitter: Callable[[str], Sequence[str]] | None) -> Sequence[str]:
    """Split a query into the parts that are embedded separately.

    Args:
        query: The text to retrieve for.
        splitter: Returns the parts. None keeps the query whole.

    Raises:
        TypeError: If the query is not a string.
        ArgumentError: If the splitter returns no list of strings, or an empty one.
    """
    if not isinstance(query, str):
        raise TypeError(
            f"the query must be a string, got {type(query).__name__}: in a chain of "
            "dictionaries, itemgetter('question') | retriever takes one entry"
        )
    if splitter is None:
        return [query]
    parts = splitter(query)
    is_list = isinstance(parts, Iterable) and not isinstance(parts, str)
    parts = list(parts) if is_list else []
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ArgumentError("query_splitter must return a list of at least one string")
    return parts


def as_vectors(embeddings: Sequence[Sequence[float]]) -> Array:
    """Convert the vectors of a query to an array, shape (m, d).

    Raises:
        EmbeddingError: If they are not numbers, or of different dimensions, or empty.
    """
    try:
        queries = np.asarray(embeddings, dtype=np.float64)
    except ValueError as error:
        raise EmbeddingError(
            "the vectors of a query must be numbers, and all of one dimension"
        ) from error
    if queries.ndim != 2 or not queries.size:
        raise EmbeddingError(f"the vectors of a query must have shape (m, d), got {queries.shape}")
    return queries


def retrieve(queries: Array, settings: RetrievalSettings) -> Search[Choice]:
    """Search for candidates and choose among them.

    Args:
        queries: Shape (m, d), as embedded.
        settings: The settings of the retrieval.

    Raises:
        EmbeddingError: If a vector is zero or not finite.
    """
    started = time.perf_counter()
    units = unit_queries(queries)
    if settings.candidate_search == "residual":
        candidates, selection = yield from residual_candidates(
            queries,
            units,
            step_fetch_k=settings.step_fetch_k,
            k=settings.k,
            noise_variance=settings.noise_variance,
            replace=settings.replace,
            stopping_alpha=settings.stopping_alpha,
        )
    else:
        if settings.candidate_search == "exhaustive":
            candidates = yield from every_candidate(queries.shape[1])
        else:
            candidates = yield from nearest_candidates(queries, units, fetch_k=settings.fetch_k)
        selection = _select(units, candidates, settings)
    return Choice(units, candidates, selection, settings, time.perf_counter() - started)


def _select(units: Array, candidates: Candidates, settings: RetrievalSettings) -> Selection:
    return settings.method(
        units,
        candidates.embeddings,
        k=settings.k,
        noise_variance=settings.noise_variance,
        replace=settings.replace,
        stopping_alpha=settings.stopping_alpha,
    )


def choose(adapter: StoreAdapter, settings: RetrievalSettings, queries: Array) -> Choice:
    """Choose documents of a store for one query.

    Args:
        adapter: The store's adapter.
        settings: The settings of the retrieval.
        queries: The vectors of the query, shape (m, d), as embedded.

    Raises:
        EmbeddingError: If a vector is zero, not finite, or of the wrong dimension.
        StoreError: If the store cannot answer, or not in time.
    """
    search = retrieve(queries, settings)
    return run(search, adapter, timeout=settings.timeout, arguments=settings.search)


async def achoose(
    adapter: AnyAdapter, settings: RetrievalSettings, queries: Array, *, store: object
) -> Choice:
    """Choose as `choose` does, without blocking the event loop.

    Args:
        adapter: The store's adapter.
        settings: The settings of the retrieval.
        queries: The vectors of the query, shape (m, d), as embedded.
        store: The store itself; the number of threads that wait for one store is limited.
    """
    return await arun(
        retrieve(queries, settings),
        adapter,
        store=store,
        timeout=settings.timeout,
        arguments=settings.search,
    )


def choose_each(
    adapter: StoreAdapter, settings: RetrievalSettings, queries: Sequence[Array | Exception]
) -> list[Choice | Exception]:
    """Choose documents for each of many queries, with few calls of the store.

    Args:
        adapter: The store's adapter.
        settings: The settings of each retrieval; the timeout counts for 64 queries together.
        queries: For each query its vectors, as in `choose`, or the error that embedding it raised.

    Returns:
        For each query the choice, or the error that prevented it.
    """
    choices: list[Choice | Exception] = []
    for search in _searches(queries, settings):
        choices += run(search, adapter, timeout=settings.timeout, arguments=settings.search)
    return choices


async def achoose_each(
    adapter: AnyAdapter,
    settings: RetrievalSettings,
    queries: Sequence[Array | Exception],
    *,
    store: object,
) -> list[Choice | Exception]:
    """Choose as `choose_each` does, without blocking the event loop; see `achoose`."""
    choices: list[Choice | Exception] = []
    for search in _searches(queries, settings):
        choices += await arun(
            search, adapter, store=store, timeout=settings.timeout, arguments=settings.search
        )
    return choices


def _searches(
    queries: Sequence[Array | Exception], settings: RetrievalSettings
) -> Iterator[Search[list[Choice | Exception]]]:
    """Yield a search for each batch of queries."""

    def search(query: Array | Exception) -> Search[Choice]:
        if isinstance(query, Exception):
            raise query
        return (yield from retrieve(query, settings))

    for start in range(0, len(queries), _BATCH_SIZE):
        yield together([search(query) for query in queries[start : start + _BATCH_SIZE]])


def choose_exactly(index: ExactIndex, settings: RetrievalSettings, queries: Array) -> Choice:
    """Choose among candidates in memory, with exact neighbors and without a store.

    Args:
        index: The candidates.
        settings: The settings of the retrieval; `timeout` and `search` have no effect.
        queries: The vectors of the query, shape (m, d), of any length but zero.

    Returns:
        The choice; its indices are rows of the index.
    """
    if settings.candidate_search == "exhaustive":  # all candidates are at hand already
        started, units = time.perf_counter(), unit_queries(queries)
        selection = _select(units, index.candidates, settings)
        return Choice(units, index.candidates, selection, settings, time.perf_counter() - started)
    choice = answer_all(retrieve(queries, settings), index.answer)
    documents = [choice.candidates.documents[row] for row in choice.selection.indices]
    selection = replace(choice.selection, indices=index.rows_of(documents))
    return replace(choice, candidates=index.candidates, selection=selection)
