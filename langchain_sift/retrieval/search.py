"""Embed queries, and choose documents for one query or for many at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import array_api_compat
import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.utils import gather_with_concurrency

from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.retrieval.constraints import prepare
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
    unit_queries,
)
from langchain_sift.stores.interface import AnyAdapter, Search, StoreAdapter

Splitter = Callable[[str], Sequence[str]]

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
            write_gains(documents, self.selection.gains.tolist(), gain_key)
        return documents

    def scored(self) -> Retrieval:
        """Return the documents with their scores."""
        kernel = self.settings.selection.kernel_function
        return score(self.queries, self.candidates, self.selection, kernel)

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
            "seconds": self.seconds,
        }


def embed(query: str, embedder: Embeddings, splitter: Splitter | None) -> Array:
    """Embed a query, each of its parts separately.

    Args:
        query: The text to retrieve for.
        embedder: Embeds the parts.
        splitter: Returns the parts of a query. None keeps the query whole.

    Returns:
        The vectors of the query, shape (m, d).

    Raises:
        TypeError: If the query is not a string.
        ArgumentError: If the splitter returns no list of strings, or an empty one.
        EmbeddingError: If the vectors are not numbers, or of different dimensions.
    """
    return as_vectors([embedder.embed_query(part) for part in _split(query, splitter)])


async def aembed(query: str, embedder: Embeddings, splitter: Splitter | None) -> Array:
    """Embed as `embed` does, without blocking the event loop."""
    # One part after another: `max_concurrency` of a batch counts queries.
    return as_vectors([await embedder.aembed_query(part) for part in _split(query, splitter)])


def _split(query: str, splitter: Splitter | None) -> Sequence[str]:
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
    selecting = settings.selection
    if settings.candidate_search == "residual":
        candidates, selection = yield from residual_candidates(
            queries, units, selecting, step_fetch_k=settings.step_fetch_k
        )
        return Choice(units, candidates, selection, settings, time.perf_counter() - started)
    if settings.candidate_search == "exhaustive":
        candidates = yield from every_candidate(queries.shape[1])
    else:
        candidates = yield from nearest_candidates(queries, units, fetch_k=settings.fetch_k)
    candidates, selecting = prepare(candidates, units, selecting, settings.constraints)
    rows = candidates.embeddings
    matrices = Matrices(_NUMPY, units, rows, np.vecdot(rows, rows))
    selection = settings.method(matrices, selecting)
    return Choice(units, candidates, selection, settings, time.perf_counter() - started)


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
        store: The store itself; the number of threads that wait for it is limited.
    """
    return await arun(
        retrieve(queries, settings),
        adapter,
        store=store,
        timeout=settings.timeout,
        arguments=settings.search,
    )


def choose_each(
    adapter: StoreAdapter,
    settings: RetrievalSettings,
    queries: Sequence[object],
    embed_one: Callable[[str], Array],
    executor: Executor,
) -> Mapping[str, Choice | Exception]:
    """Choose documents for each of many queries, with few calls of the store.

    Args:
        adapter: The store's adapter.
        settings: The settings of each retrieval; the timeout counts for 64 queries together.
        queries: The texts to retrieve for. Other inputs are ignored: `invoke` rejects them.
        embed_one: Embeds a query, as `embed` does; called once for each different query.
        executor: Runs `embed_one`.

    Returns:
        For each different query the choice, or the error that prevented it.
    """

    def embed_or_error(query: str) -> Array | Exception:
        try:
            return embed_one(query)
        except Exception as error:  # noqa: BLE001 - it concerns no other query
            return error

    different = _different(queries)
    embedded = list(executor.map(embed_or_error, different))
    choices: list[Choice | Exception] = []
    for search in _searches(embedded, settings):
        choices += run(search, adapter, timeout=settings.timeout, arguments=settings.search)
    return dict(zip(different, choices, strict=True))


async def achoose_each(
    adapter: AnyAdapter,
    settings: RetrievalSettings,
    queries: Sequence[object],
    embed_one: Callable[[str], Awaitable[Array]],
    *,
    limit: int | None,
    store: object,
) -> Mapping[str, Choice | Exception]:
    """Choose as `choose_each` does, without blocking the event loop; see `achoose` for `store`.

    At most `limit` queries are embedded at a time. None means no limit.
    """

    async def embed_or_error(query: str) -> Array | Exception:
        try:
            return await embed_one(query)
        except Exception as error:  # noqa: BLE001 - as above
            return error

    different = _different(queries)
    embedded = await gather_with_concurrency(limit, *map(embed_or_error, different))
    choices: list[Choice | Exception] = []
    for search in _searches(embedded, settings):
        choices += await arun(
            search, adapter, store=store, timeout=settings.timeout, arguments=settings.search
        )
    return dict(zip(different, choices, strict=True))


def _different(queries: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(query for query in queries if isinstance(query, str)))


def _searches(
    queries: Sequence[Array | Exception], settings: RetrievalSettings
) -> Iterator[Search[list[Choice | Exception]]]:
    """Yield a search for each batch of embedded queries."""

    def search(query: Array | Exception) -> Search[Choice]:
        if isinstance(query, Exception):
            raise query
        return (yield from retrieve(query, settings))

    for start in range(0, len(queries), _BATCH_SIZE):
        yield together([search(query) for query in queries[start : start + _BATCH_SIZE]])
