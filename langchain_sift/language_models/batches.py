"""Answer many prompts, and cancel all if one fails."""

from __future__ import annotations

import asyncio
from collections.abc import (
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


async def all_or_none(answers: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all answers at once; where one fails, cancel the others: nobody waits for them."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@dataclass(slots=True)
class _Begun:
    """The answers begun within a block, and whether it failed."""

    answers: list[_Cancellable] = field(default_factory=list)
    failed: bool = False


# LangChain's executors run in copies of the caller's context.
_begun_within: ContextVar[_Begun | None] = ContextVar("langchain_sift_begun", default=None)


@contextmanager
def cancelled_together() -> Iterator[None]:
    """Where the block fails, cancel all answers begun in it, in whatever thread."""
    begun = _Begun()
    token = _begun_within.set(begun)
    try:
        yield
    except BaseException:
        begun.failed = True
        for answer in begun.answers:
            answer.cancel()
        raise
    finally:
        _begun_within.reset(token)
