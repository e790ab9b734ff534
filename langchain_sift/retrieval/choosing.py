"""Choose documents for one query or for many at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import array_api_compat
import numpy as np
from langchain_core.documents import Document
from langchain_core.runnables.utils import gather_with_concurrency

from langchain_sift.retrieval.constraints import prepare, similar_candidates
from langchain_sift.retrieval.parents import (
    best_chunks,
    missing_parents,
    warn_of_missing,
    with_parents,
)
from langchain_sift.retrieval.queries import Query
from langchain_sift.retrieval.scores import Retrieval, score, write_gains
from langchain_sift.retrieval.settings import RetrievalSettings
from langchain_sift.selection import Selection
from langchain_sift.selection.arguments import Array, Matrices
from langchain_sift.stores.batches import together
from langchain_sift.stores.calls import arun, run
from langchain_sift.stores.candidates import (
    Candidates,
    every_candidate,
    nearest_candidates,
    residual_candidates,
)
from langchain_sift.stores.fusion import hybrid_candidates
from langchain_sift.stores.interface import AnyAdapter, Search, StoreAdapter
from langchain_sift.stores.unit_vectors import unit_queries

_NUMPY = array_api_compat.array_namespace(np.empty(0))
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

    def documents(self, gain_key: str | None = None) -> list[Document]:
        """Copy the documents, in the order of choice.

        Args:
            gain_key: Key under which the metadata get the gains. None writes none.
        """
        documents = self.candidates.copy_documents(self.selection.indices.tolist())
        if gain_key is not None:
            unrelated_gain = self.settings.selection.unrelated_gain
            write_gains(documents, self.selection, gain_key, unrelated_gain=unrelated_gain)
        return documents

    @property
    def missing_parents(self) -> tuple[str, ...]:
        """The ids of parents that the docstore lacks; their chunks stand in their place."""
        if self.settings.parents is None:
            return ()
        return missing_parents(
            self.candidates, self.selection.indices.tolist(), self.settings.parents
        )

    def scored(self) -> Retrieval:
        """Return the documents with their scores."""
        kernel = self.settings.selection.kernel_function
        retrieval = score(self.queries, self.candidates, self.selection, kernel)
        return replace(retrieval, missing_parents=self.missing_parents)

    def event(self) -> dict[str, object]:
        """Return the data of a "sift_selection" event, as plain values."""
        selection, settings = self.selection, self.settings
        return {
            "ids": [self.candidates.documents[index].id for index in selection.indices],
            "gains": selection.gains.tolist(),
            "posterior_variances": selection.posterior_variances.tolist(),
            "prior_variance": selection.prior_variance,
            "kernel": settings.selection.kernel,
            "length_scale": float(settings.selection.length_scale),
            "noise_variance": float(settings.selection.noise_variance),
            "candidate_search": settings.candidate_search,
            "fetch_k": settings.fetch_k,
            "candidates": len(self.candidates.documents),
            "missing_parents": list(self.missing_parents),
            "seconds": self.seconds,
        }


def retrieve(query: Query, settings: RetrievalSettings) -> Search[Choice]:
    """Search for candidates and choose among them.

    Args:
        query: The query.
        settings: The settings of the retrieval.

    Raises:
        EmbeddingError: If a vector of the query is zero or not finite.
        InvalidFilter: If documents of the second retriever cannot be checked against the filter.
    """
    started = time.perf_counter()
    units = unit_queries(query.vectors)
    selecting, parents = settings.selection, settings.parents
    if settings.candidate_search == "residual":
        candidates, selection = yield from residual_candidates(
            query.vectors, units, selecting, step_fetch_k=settings.step_fetch_k
        )
        return Choice(units, candidates, selection, settings, time.perf_counter() - started)
    candidates = yield from _candidates(query, units, settings)
    # First drop dissimilar chunks: another chunk of the same parent may be similar enough.
    candidates = similar_candidates(candidates, units, settings.constraints.min_similarity)
    if parents is not None:
        candidates = best_chunks(candidates, units, selecting, parents)
        if settings.constraints.reads_documents:
            candidates = yield from with_parents(candidates, None, parents)
    candidates, selecting = prepare(candidates, units, selecting, settings.constraints)
    rows = candidates.embeddings
    matrices = Matrices(_NUMPY, units, rows, np.vecdot(rows, rows))
    selection = settings.method(matrices, selecting)
    if parents is not None and not settings.constraints.reads_documents:
        candidates = yield from with_parents(candidates, selection.indices.tolist(), parents)
    choice = Choice(units, candidates, selection, settings, time.perf_counter() - started)
    if choice.missing_parents:
        warn_of_missing(choice.missing_parents)
    return choice


def _candidates(query: Query, units: Array, settings: RetrievalSettings) -> Search[Candidates]:
    if settings.candidate_search == "exhaustive":
        return (yield from every_candidate(units.shape[1]))
    if query.second is None:
        return (yield from nearest_candidates(query.vectors, units, fetch_k=settings.fetch_k))
    return (
        yield from hybrid_candidates(
            query.vectors,
            units,
            query.second,
            fetch_k=settings.fetch_k,
            is_restricted=any(value is not None for value in settings.search.values()),
        )
    )


def choose(adapter: StoreAdapter, settings: RetrievalSettings, query: Query) -> Choice:
    """Choose documents of a store for one query.

    Args:
        adapter: The store's adapter.
        settings: The settings of the retrieval.
        query: The query.

    Raises:
        EmbeddingError: If a vector of the query is zero or not finite, or the stored
            vectors have other dimensions.
        StoreError: If the store cannot answer, or not in time.
    """
    search = retrieve(query, settings)
    return run(search, adapter, timeout=settings.timeout, arguments=settings.search)


async def achoose(
    adapter: AnyAdapter, settings: RetrievalSettings, query: Query, *, store: object
) -> Choice:
    """Choose as `choose` does, without blocking the event loop.

    Args:
        adapter: The store's adapter.
        settings: The settings of the retrieval.
        query: The query.
        store: The store itself; the number of threads that wait for it is limited.
    """
    return await arun(
        retrieve(query, settings),
        adapter,
        store=store,
        timeout=settings.timeout,
        arguments=settings.search,
    )


def choose_each(
    adapter: StoreAdapter,
    settings: RetrievalSettings,
    queries: Sequence[object],
    read: Callable[[str], Query],
    executor: Executor,
) -> Mapping[str, Choice | Exception]:
    """Choose documents for each of many queries, with few calls of the store.

    Args:
        adapter: The store's adapter.
        settings: The settings of each retrieval; the timeout counts for 64 queries together.
        queries: The texts to retrieve for. Other inputs are ignored: `invoke` rejects them.
        read: Reads a query, as `QueryReader.read` does; called once for each different query.
        executor: Runs `read`.

    Returns:
        For each different query the choice, or the error that prevented it.
    """

    def read_or_error(query: str) -> Query | Exception:
        try:
            return read(query)
        except Exception as error:  # noqa: BLE001 - it concerns no other query
            return error

    different = _different(queries)
    embedded = list(executor.map(read_or_error, different))
    choices: list[Choice | Exception] = []
    for search in _searches(embedded, settings):
        choices += run(search, adapter, timeout=settings.timeout, arguments=settings.search)
    return dict(zip(different, choices, strict=True))


async def achoose_each(
    adapter: AnyAdapter,
    settings: RetrievalSettings,
    queries: Sequence[object],
    read: Callable[[str], Awaitable[Query]],
    *,
    limit: int | None,
    store: object,
) -> Mapping[str, Choice | Exception]:
    """Choose as `choose_each` does, without blocking the event loop; see `achoose` for `store`.

    At most `limit` queries are read at a time. None means no limit.
    """

    async def read_or_error(query: str) -> Query | Exception:
        try:
            return await read(query)
        except Exception as error:  # noqa: BLE001 - as above
            return error

    different = _different(queries)
    embedded = await gather_with_concurrency(limit, *map(read_or_error, different))
    choices: list[Choice | Exception] = []
    for search in _searches(embedded, settings):
        choices += await arun(
            search, adapter, store=store, timeout=settings.timeout, arguments=settings.search
        )
    return dict(zip(different, choices, strict=True))


def _different(queries: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(query for query in queries if isinstance(query, str)))


def _searches(
    queries: Sequence[Query | Exception], settings: RetrievalSettings
) -> Iterator[Search[list[Choice | Exception]]]:
    """Yield a search for each batch of queries."""

    def search(query: Query | Exception) -> Search[Choice]:
        if isinstance(query, Exception):
            raise query
        return (yield from retrieve(query, settings))

    for start in range(0, len(queries), _BATCH_SIZE):
        yield together([search(query) for query in queries[start : start + _BATCH_SIZE]])
