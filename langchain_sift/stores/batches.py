"""Unite many searches of a store into one search, to make fewer calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np

from langchain_sift.errors import StoreError
from langchain_sift.stores.calls import DIRECTIONS_PER_CALL, advance
from langchain_sift.stores.interface import ById, Lookup, Nearest, Page, Request, Search

Result = TypeVar("Result")


def together(searches: Sequence[Search[Result]]) -> Search[list[Result | Exception]]:
    """Unite searches into one, whose requests serve as many of them as possible.

    Its result is the result of each search, or the error that ended it.
    """
    members = [_Member(search) for search in searches]
    while any(member.request for member in members):
        calls = deque(_shared_requests(members))
        while calls:
            request, parts = calls.popleft()
            try:
                answer = yield request
            except Exception as error:  # noqa: BLE001 - every member gets it, and decides
                calls.extend(_after_failure(parts, error))
            else:
                for member, part in parts:
                    member.advance(member.search.send, answer if part is None else answer[part])
    return [member.outcome for member in members]


class _Member(Generic[Result]):
    """A search among others: its open request, and at the end its outcome."""

    def __init__(self, search: Search[Result]) -> None:
        self.search = search
        self.request: Request | None = None
        self.outcome: Any = None
        self.advance(search.send, None)

    def advance(self, move: Callable[[Any], Request], value: Any) -> None:
        try:
            self.request, self.outcome = advance(move, value)
        except Exception as error:  # noqa: BLE001 - another member may still succeed
            self.request, self.outcome = None, error


# The members that share a request, each with its part of the answer; None for all of it.
_Parts = list[tuple[_Member[Any], slice | None]]


def _after_failure(parts: _Parts, error: Exception) -> Iterator[tuple[Request, _Parts]]:
    """Yield the requests to make instead; raise the error in the members that have none.

    A failure of unknown cause may concern one member only: each repeats its request alone.
    """
    for member, _ in parts:
        if len(parts) > 1 and type(error) is StoreError and member.request is not None:
            yield member.request, [(member, None)]
        else:
            member.advance(member.search.throw, error)


def _shared_requests(members: Sequence[_Member[Any]]) -> Iterator[tuple[Request, _Parts]]:
    """Yield requests that serve several members, with each member's part of the answer."""
    same: dict[object, list[_Member[Any]]] = {}
    for member in members:
        if member.request is not None:
            same.setdefault(_kind(member.request), []).append(member)
    for sharing in same.values():
        first = sharing[0].request
        if isinstance(first, Nearest):
            yield from _joined_directions(sharing, first)
        elif first is not None:
            yield _joined_keys(sharing, first), [(member, None) for member in sharing]


def _kind(request: Request) -> tuple[object, ...]:
    """Return a value that is equal for requests that one call can answer."""
    if isinstance(request, Nearest):
        return request.count, request.directions.shape[1], request.excluded
    if isinstance(request, Page):
        return "page", str(request.cursor), request.size
    return "lookup", request.source if isinstance(request, Lookup) else None


def _joined_keys(members: Sequence[_Member[Any]], first: Request) -> Request:
    """Return one request for the keys of all; each member takes its own from the answer."""
    requests: list[Any] = [member.request for member in members]
    if isinstance(first, ById):
        return ById(tuple(dict.fromkeys(id_ for request in requests for id_ in request.ids)))
    if isinstance(first, Lookup):
        keys = dict.fromkeys(key for request in requests for key in request.keys)
        return replace(first, keys=tuple(keys))
    return first


def _joined_directions(
    members: Sequence[_Member[Any]], first: Nearest
) -> Iterator[tuple[Nearest, _Parts]]:
    directions: list[Any] = []
    parts: _Parts = []
    for member in members:
        more = member.request.directions  # type: ignore[union-attr]
        if parts and len(directions) + len(more) > DIRECTIONS_PER_CALL:
            yield replace(first, directions=np.array(directions)), parts
            directions, parts = [], []
        parts.append((member, slice(len(directions), len(directions) + len(more))))
        directions.extend(more)
    yield replace(first, directions=np.array(directions)), parts
