"""Threads that wait for stores, so that nobody has to wait for ever."""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

# So many threads wait for work, at most: as many as the event loop's own executor has.
MOST_IDLE = 32
# So many calls of the coroutines of one event loop are waited for at once, for each store.
_MOST_AT_ONCE = 64

Outcome = tuple[Any, BaseException | None]


class Worker:
    """A thread that makes calls, one after another.

    Few stores' clients can be told how long to wait. A worker whose call is still out when its
    time is up is left alone until the call ends, and then serves again: it holds up neither the
    caller nor, as a daemon, the end of the process.
    """

    # Waiting for work. A new thread for each call would cost more than most of what is done
    # with the answer: its memory is new as well.
    idle: ClassVar[deque[Worker]] = deque()

    def __init__(self) -> None:
        """Start the thread."""
        self._hired = True
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="langchain-sift-store").start()

    @classmethod
    def hire(cls) -> Worker:
        """Return one that waits, or a new one."""
        try:
            return cls.idle.pop()
        except IndexError:
            return cls()

    def start(self, function: Callable[[], Any], deliver: Callable[[Outcome], object]) -> None:
        """Call the function, and then `deliver` with what it returned or raised."""
        context = contextvars.copy_context()

        def job() -> None:
            outcome: Outcome
            try:
                outcome = context.run(function), None
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                outcome = None, error
            self._hired = len(self.idle) < MOST_IDLE
            if self._hired:
                self.idle.append(self)
            deliver(outcome)

        self._jobs.put(job)

    def _serve(self) -> None:
        while self._hired:
            self._jobs.get()()


if hasattr(os, "register_at_fork"):  # not on Windows
    # Threads do not live on in the child of a fork.
    os.register_at_fork(after_in_child=Worker.idle.clear)


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """Return what the function returns, if it does so in time; else raise TimeoutError."""
    answers: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    Worker.hire().start(function, answers.put)
    try:
        answer, error = answers.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return answer


# For each event loop and store, by its id, how many of its coroutines may have a worker at once.
# Each is held by those whose calls are out; who does not call needs no limit.
_limits: WeakKeyDictionary[
    asyncio.AbstractEventLoop, WeakValueDictionary[int, asyncio.Semaphore]
] = WeakKeyDictionary()


async def awithin(seconds: float, function: Callable[[], Any], store: object) -> Any:
    """Do as `within` does, without a thread of the event loop's own executor.

    It has few, which a store that hangs would take from everything else in the process.
    """
    loop = asyncio.get_running_loop()
    limits = _limits.setdefault(loop, WeakValueDictionary())
    limit = limits.setdefault(id(store), asyncio.Semaphore(_MOST_AT_ONCE))
    future: asyncio.Future[Any] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if future.done():  # nobody waits any more
            return
        answer, error = outcome
        if error is None:
            future.set_result(answer)
        elif isinstance(error, StopIteration):  # a future takes none
            future.set_exception(RuntimeError("StopIteration"))
        else:
            future.set_exception(error)

    def deliver(outcome: Outcome) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(settle, outcome)

    async with asyncio.timeout(seconds), limit:
        Worker.hire().start(function, deliver)
        return await future
