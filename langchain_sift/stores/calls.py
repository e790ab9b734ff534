"""Query a store within a deadline, with retries."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import httpx
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from langchain_sift.errors import SIFTError, StoreError, StoreTimeout, StoreUnavailable
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.candidates import Candidates, nearest_candidates
from langchain_sift.stores.deadlines import StoreClock, in_thread, within
from langchain_sift.stores.interface import (
    ROWS_PER_CALL,
    AnyAdapter,
    AsyncStoreAdapter,
    ById,
    Lookup,
    Nearest,
    Request,
    Rows,
    Search,
    StoreAdapter,
    blocking_adapter_for,
)
from langchain_sift.stores.unit_vectors import unit_queries

Result = TypeVar("Result")

# Retries: reading twice does no harm.
_RETRY = retry_if_exception_type(StoreUnavailable)
_WAIT = wait_random_exponential(multiplier=0.1, max=2.0)
_ATTEMPTS = 3
# Chroma advises at most 50 to 250 for one call.
DIRECTIONS_PER_CALL = 64


def fetch_candidates(
    vectorstore: VectorStore,
    query_embedding: Array,
    *,
    fetch_k: int,
    timeout: float = 30.0,
    **search: object,
) -> Candidates:
    """Return the documents nearest to the query, with their vectors.

    Args:
        vectorstore: Any store that threads can query.
        query_embedding: Shape (d,).
        fetch_k: Maximum number of different texts.
        timeout: Seconds that the store may take.
        **search: `filter` and other keyword arguments of the store's search.

    Raises:
        StoreError: If the store cannot answer.
        EmbeddingError: If a vector of the query is zero or not finite, or the stored
            vectors have other dimensions.
    """
    queries = query_embedding[None, :]
    nearest = nearest_candidates(queries, unit_queries(queries), fetch_k=fetch_k)
    return run(nearest, blocking_adapter_for(vectorstore), timeout=timeout, arguments=search)


def answer_all(search: Search[Result], answer: Callable[[Request], Any]) -> Result:
    """Answer the requests of a search one by one, and return its result.

    An error of `answer` is raised in the search, at the request.
    """
    result: Result
    request, result = advance(search.send, None)
    while request is not None:
        try:
            reply = answer(request)
        except Exception as error:  # noqa: BLE001 - the search raises it, or goes on
            request, result = advance(search.throw, error)
        else:
            request, result = advance(search.send, reply)
    return result


def run(
    search: Search[Result],
    adapter: StoreAdapter,
    *,
    timeout: float,
    arguments: Mapping[str, object],
) -> Result:
    """Run a search on a store and return its result.

    Args:
        search: A generator of requests; `batches.together` unites several searches.
        adapter: The store's adapter.
        timeout: Seconds for all requests together, retries included.
        arguments: Keyword arguments of the store's search.

    Raises:
        SIFTError: If the store fails, or the search itself does.
    """
    deadline = time.monotonic() + timeout
    access = _Access(adapter, arguments, timeout)
    return answer_all(search, lambda request: _answer(access, request, deadline))


async def arun(
    search: Search[Result],
    adapter: AnyAdapter,
    *,
    store: object,
    timeout: float,
    arguments: Mapping[str, object],
) -> Result:
    """Run a search as `run` does, without blocking the event loop; it computes in a thread.

    The number of concurrent calls is limited for each `store`, so that a store that hangs does not
    block the others. Neither waiting for this limit nor computing counts as time of the store.
    """
    clock, access = StoreClock(timeout), _Access(adapter, arguments, timeout)
    result: Result
    request, result = advance(search.send, None)
    while request is not None:
        try:
            reply = await _aanswer(access, request, clock, store)
        except Exception as error:  # noqa: BLE001 - as above
            request, result = await run_in_executor(None, advance, search.throw, error)
        else:
            request, result = await run_in_executor(None, advance, search.send, reply)
    return result


def advance(move: Callable[[Any], Request], value: Any) -> tuple[Request | None, Any]:
    """Return the next request of a search, or None and its result."""
    try:
        return move(value), None
    except StopIteration as end:
        return None, end.value


@dataclass(frozen=True, slots=True)
class _Access:
    """A search's way to its store."""

    adapter: Any
    arguments: Mapping[str, object]
    timeout: float


def _answer(access: _Access, request: Request, deadline: float) -> Any:
    """Call the store for each part of a request, within the deadline, with retries."""

    def call(part: Request) -> Any:
        try:
            remaining = _remaining(deadline)
            return within(remaining, partial(_call, access, part, remaining))
        except SIFTError:
            raise
        except Exception as error:
            raise _typed(error, access, part) from error

    retrying = Retrying(retry=_RETRY, stop=_stop(deadline), wait=_WAIT, reraise=True)
    return _joined(request, [retrying(call, part) for part in _split(request)])


async def _aanswer(access: _Access, request: Request, clock: StoreClock, store: object) -> Any:
    """Call the store as `_answer` does, in its turn, without blocking the event loop."""
    # A source beside the store has no limit of its own, and must take no turn of the store.
    holder = request.source if isinstance(request, Lookup) else store
    try:
        async with clock.turn(holder) as left:
            return await _aparts(access, request, time.monotonic() + left)
    except SIFTError:
        raise
    except TimeoutError as error:
        raise _typed(error, access, request) from error


async def _aparts(access: _Access, request: Request, deadline: float) -> Any:
    async def call(part: Request) -> Any:
        try:
            remaining = _remaining(deadline)
            if isinstance(part, Lookup) or isinstance(access.adapter, AsyncStoreAdapter):
                return await _acall(access, part, remaining)
            return await in_thread(partial(_call, access, part, remaining))
        except SIFTError:
            raise
        except Exception as error:
            raise _typed(error, access, part) from error

    retrying = AsyncRetrying(retry=_RETRY, stop=_stop(deadline), wait=_WAIT, reraise=True)
    return _joined(request, [await retrying(call, part) for part in _split(request)])


def _split(request: Request) -> list[Request]:
    """Divide the request of one search, such as one for a long prompt, into calls."""
    if isinstance(request, Nearest):
        return [
            replace(request, directions=request.directions[start : start + DIRECTIONS_PER_CALL])
            for start in range(0, len(request.directions), DIRECTIONS_PER_CALL)
        ]
    if isinstance(request, ById):
        starts = range(0, len(request.ids), ROWS_PER_CALL)
        return [ById(request.ids[start : start + ROWS_PER_CALL]) for start in starts]
    return [request]


def _joined(request: Request, answers: list[Any]) -> Any:
    if len(answers) == 1:
        return answers[0]
    if isinstance(request, ById):
        return Rows.joined(answers) if None not in answers else None
    return [rows for answer in answers for rows in answer]


def _call(access: _Access, request: Request, timeout: float) -> Any:
    adapter, arguments = access.adapter, access.arguments
    if isinstance(request, Nearest):
        return adapter.nearest(
            request.directions, request.count, timeout=timeout, **arguments, **request.arguments()
        )
    if isinstance(request, ById):
        by_ids = getattr(adapter, "by_ids", None)
        return by_ids and by_ids(request.ids, timeout=timeout, **arguments)
    if isinstance(request, Lookup):
        values = request.source.read(list(request.keys))
        return dict(zip(request.keys, values, strict=True))
    return adapter.page(request.cursor, request.size, timeout=timeout, **arguments)


async def _acall(access: _Access, request: Request, timeout: float) -> Any:
    adapter, arguments = access.adapter, access.arguments
    if isinstance(request, ById):
        by_ids = getattr(adapter, "aby_ids", None)
        return by_ids and await by_ids(request.ids, timeout=timeout, **arguments)
    if isinstance(request, Lookup):
        values = await request.source.aread(list(request.keys))
        return dict(zip(request.keys, values, strict=True))
    if isinstance(request, Nearest):
        return await adapter.anearest(
            request.directions, request.count, timeout=timeout, **arguments, **request.arguments()
        )
    return await adapter.apage(request.cursor, request.size, timeout=timeout, **arguments)


def _stop(deadline: float) -> stop_base:
    """Return the end of the retries."""
    return stop_after_attempt(_ATTEMPTS) | stop_before_delay(deadline - time.monotonic())


def _remaining(deadline: float) -> float:
    """Return the seconds left. With none left, the store is not called again."""
    remaining = deadline - time.monotonic()
    if remaining <= 0.0:
        raise TimeoutError
    return remaining


def _typed(error: Exception, access: _Access, request: Request) -> SIFTError:
    """Convert a foreign error to an error of this package that names store and operation."""
    operation = "search" if isinstance(request, Nearest) else "reading"
    label = request.source.label if isinstance(request, Lookup) else access.adapter.label
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        what = f"no answer to a {operation} within {access.timeout:g} s"
        return StoreTimeout(f"{label}: {what}: raise `timeout`, or use `abatch` for many queries")
    # The message of a foreign error may contain the text of a document.
    problem = type(error).__name__
    if is_of_one_thread(error):
        return of_one_thread(label)
    if isinstance(error, ConnectionError | httpx.TransportError):
        return StoreUnavailable(f"{label}: {operation} failed: {problem}")
    return StoreError(f"{label}: {operation} failed: {problem}")


def is_of_one_thread(error: Exception) -> bool:
    """Return True if an object was used that only the thread that made it can use."""
    return isinstance(error, sqlite3.ProgrammingError) and "thread" in str(error)


def of_one_thread(label: str) -> StoreError:
    """Return the error for such an object; stores are queried by other threads."""
    return StoreError(
        f"only the thread that opened {label} can query it: give it a connection of "
        "sqlite3.connect(..., check_same_thread=False)"
    )
