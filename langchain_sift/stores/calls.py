"""Ask a store: within a deadline, with retries, and for many queries in one call."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
from langchain_core.runnables import run_in_executor
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from langchain_sift.errors import SIFTError, StoreError, StoreTimeout, StoreUnavailable
from langchain_sift.stores.deadlines import awithin, within
from langchain_sift.stores.interface import (
    AnyAdapter,
    AsyncStoreAdapter,
    Nearest,
    Page,
    StoreAdapter,
)

Result = TypeVar("Result")
Search = Generator[Nearest | Page, Any, Result]

_ATTEMPTS = 3
# Chroma advises at most 50 to 250 for one call.
_DIRECTIONS_PER_CALL = 64


def run(
    search: Search[Result], adapter: StoreAdapter, *, timeout: float, arguments: Mapping[str, Any]
) -> Result:
    """Answer the requests of one search and return its result; see `run_together`."""
    return _result(run_together([search], adapter, timeout=timeout, arguments=arguments)[0])


def run_together(
    searches: Sequence[Search[Result]],
    adapter: StoreAdapter,
    *,
    timeout: float,
    arguments: Mapping[str, Any],
) -> list[Result | Exception]:
    """Answer the requests of several searches, those that can be with one call.

    Args:
        searches: Generators of requests.
        adapter: The store's.
        timeout: Seconds until all have to be done.
        arguments: What the adapter's search takes besides, the same for all.

    Returns:
        For each search its result, or what stopped it: a `SIFTError`.
    """
    deadline = time.monotonic() + timeout
    members = [_Member(search) for search in searches]
    while any(member.request for member in members):
        calls = deque(_gathered(members))
        while calls:
            request, parts = calls.popleft()
            try:
                answer = _ask(adapter, request, deadline, arguments)
            except Exception as error:  # noqa: BLE001 - each member hears of it, and decides
                calls.extend(_after_failure(parts, error))
            else:
                for member, part in parts:
                    member.answer(answer if part is None else answer[part])
    return [member.outcome() for member in members]


async def arun_together(
    searches: Sequence[Search[Result]],
    adapter: AnyAdapter,
    *,
    store: object,
    timeout: float,
    arguments: Mapping[str, Any],
) -> list[Result | Exception]:
    """Do as `run_together` does, without blocking the event loop; choosing is done in a thread.

    `store` is what the adapter asks: one that hangs holds up no other.
    """
    deadline = time.monotonic() + timeout
    members = [_Member(search) for search in searches]
    while any(member.request for member in members):
        calls = deque(_gathered(members))
        while calls:
            request, parts = calls.popleft()
            try:
                answer = await _aask(adapter, request, deadline, arguments, store)
            except Exception as error:  # noqa: BLE001 - as above
                calls.extend(_after_failure(parts, error))
            else:
                for member, part in parts:
                    own = answer if part is None else answer[part]
                    await run_in_executor(None, member.answer, own)
    return [member.outcome() for member in members]


class _Member(Generic[Result]):
    """A search among others: its open request, and in the end its outcome."""

    def __init__(self, search: Search[Result]) -> None:
        self._search = search
        self._outcome: Any = None
        self.request: Nearest | Page | None = None
        self._advance(search.send, None)

    def answer(self, answer: Any) -> None:
        self._advance(self._search.send, answer)

    def fail(self, error: Exception) -> None:
        self._advance(self._search.throw, error)

    def outcome(self) -> Result | Exception:
        outcome: Result | Exception = self._outcome
        return outcome

    def _advance(self, move: Callable[[Any], Nearest | Page], value: Any) -> None:
        self.request = None
        try:
            self.request = move(value)
        except StopIteration as end:
            self._outcome = end.value
        except Exception as error:  # noqa: BLE001 - another member may still succeed
            self._outcome = error


# Who asks, and which part of the answer is theirs: None for all of it.
_Parts = list[tuple[_Member[Any], slice | None]]


def _after_failure(parts: _Parts, error: Exception) -> Iterator[tuple[Nearest | Page, _Parts]]:
    """Yield the calls to make instead; tell each who asked of the failure if there are none.

    What fails for a reason that is not known may fail for one of those who asked, and not for
    the others: each asks again, alone.
    """
    for member, _ in parts:
        if len(parts) > 1 and type(error) is StoreError and member.request is not None:
            yield member.request, [(member, None)]
        else:
            member.fail(error)


def _gathered(members: Sequence[_Member[Any]]) -> Iterator[tuple[Nearest | Page, _Parts]]:
    """Yield requests that serve several members, with the part of the answer that is each's."""
    same: dict[Any, list[_Member[Any]]] = {}
    for member in members:
        request = member.request
        if isinstance(request, Nearest):
            same.setdefault((request.count, request.directions.shape[1]), []).append(member)
        elif request is not None:
            same.setdefault(("page", str(request.cursor), request.size), []).append(member)
    for askers in same.values():
        first = askers[0].request
        if isinstance(first, Nearest):
            yield from _in_one_call(askers, first.count)
        elif first is not None:
            yield first, [(member, None) for member in askers]


def _in_one_call(members: Sequence[_Member[Any]], count: int) -> Iterator[tuple[Nearest, _Parts]]:
    directions: list[Any] = []
    parts: _Parts = []
    for member in members:
        own = member.request.directions  # type: ignore[union-attr]
        if parts and len(directions) + len(own) > _DIRECTIONS_PER_CALL:
            yield Nearest(np.array(directions), count), parts
            directions, parts = [], []
        parts.append((member, slice(len(directions), len(directions) + len(own))))
        directions.extend(own)
    yield Nearest(np.array(directions), count), parts


def _ask(
    adapter: StoreAdapter, request: Nearest | Page, deadline: float, arguments: Mapping[str, Any]
) -> Any:
    return _joined([_answer(adapter, part, deadline, arguments) for part in _split(request)])


async def _aask(
    adapter: AnyAdapter,
    request: Nearest | Page,
    deadline: float,
    arguments: Mapping[str, Any],
    store: object,
) -> Any:
    return _joined(
        [await _aanswer(adapter, part, deadline, arguments, store) for part in _split(request)]
    )


def _split(request: Nearest | Page) -> list[Nearest | Page]:
    """Divide what one search alone asks, such as one for a long prompt, into calls."""
    if isinstance(request, Page):
        return [request]
    return [
        Nearest(request.directions[start : start + _DIRECTIONS_PER_CALL], request.count)
        for start in range(0, len(request.directions), _DIRECTIONS_PER_CALL)
    ]


def _joined(answers: list[Any]) -> Any:
    return answers[0] if len(answers) == 1 else [rows for answer in answers for rows in answer]


def _answer(
    adapter: StoreAdapter, request: Nearest | Page, deadline: float, arguments: Mapping[str, Any]
) -> Any:
    def once() -> Any:
        try:
            remaining = _remaining(deadline)
            return within(remaining, partial(_put, adapter, request, remaining, arguments))
        except SIFTError:
            raise
        except Exception as error:
            raise _typed(error, adapter, request) from error

    return Retrying(**_retries(deadline))(once)


async def _aanswer(
    adapter: AnyAdapter,
    request: Nearest | Page,
    deadline: float,
    arguments: Mapping[str, Any],
    store: object,
) -> Any:
    async def once() -> Any:
        try:
            remaining = _remaining(deadline)
            if isinstance(adapter, AsyncStoreAdapter):
                async with asyncio.timeout(remaining):
                    return await _aput(adapter, request, remaining, arguments)
            ask = partial(_put, adapter, request, remaining, arguments)
            return await awithin(remaining, ask, store)
        except SIFTError:
            raise
        except Exception as error:
            raise _typed(error, adapter, request) from error

    return await AsyncRetrying(**_retries(deadline))(once)


def _put(
    adapter: StoreAdapter, request: Nearest | Page, timeout: float, arguments: Mapping[str, Any]
) -> Any:
    if isinstance(request, Nearest):
        return adapter.nearest(request.directions, request.count, timeout=timeout, **arguments)
    return adapter.page(request.cursor, request.size, timeout=timeout, **arguments)


async def _aput(
    adapter: AsyncStoreAdapter,
    request: Nearest | Page,
    timeout: float,
    arguments: Mapping[str, Any],
) -> Any:
    if isinstance(request, Nearest):
        return await adapter.anearest(
            request.directions, request.count, timeout=timeout, **arguments
        )
    return await adapter.apage(request.cursor, request.size, timeout=timeout, **arguments)


def _remaining(deadline: float) -> float:
    """Return the seconds left; with none, a store that hangs is not asked once more."""
    remaining = deadline - time.monotonic()
    if remaining <= 0.0:
        raise TimeoutError
    return remaining


def _retries(deadline: float) -> dict[str, Any]:
    """Say when to ask again: reading twice does no harm, so whatever a second try may mend."""
    return {
        "retry": retry_if_exception_type(StoreUnavailable),
        "stop": stop_after_attempt(_ATTEMPTS) | stop_before_delay(deadline - time.monotonic()),
        "wait": wait_random_exponential(multiplier=0.1, max=2.0),
        "reraise": True,
    }


def _typed(error: Exception, adapter: AnyAdapter, request: Nearest | Page) -> SIFTError:
    """Return another's error as one of ours, that names the store and what it was asked."""
    operation = "search" if isinstance(request, Nearest) else "reading"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return StoreTimeout(f"{adapter.label}: no answer to a {operation} within the timeout")
    # The text of another's message may hold that of a document.
    problem = type(error).__name__
    if isinstance(error, ConnectionError | httpx.TransportError):
        return StoreUnavailable(f"{adapter.label}: {operation} failed: {problem}")
    return StoreError(f"{adapter.label}: {operation} failed: {problem}")


def _result(outcome: Result | Exception) -> Result:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
