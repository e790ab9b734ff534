"""Run a blocking call in a thread, with a timeout."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

MAX_IDLE = 32
"""Maximum number of idle threads: as many as the event loop's executor has."""
# Maximum number of concurrent calls to one store, from the coroutines of one event loop.
_MAX_CONCURRENT = 64

Result = TypeVar("Result")
Outcome = tuple[Any, BaseException | None]
"""The result of a call, or the error that it raised."""


class CallThread:
    """A thread that makes calls one after another.

    Few clients of stores take a timeout. If a call exceeds its deadline, the caller moves on; the
    thread finishes in the background and is then reused. Threads are daemons, so that a hung
    store cannot block the exit of the interpreter.
    """

    # A new thread for each call would cost more than most of the work on the response, because
    # its memory is new too.
    idle: ClassVar[deque[CallThread]] = deque()

    def __init__(self) -> None:
        """Start the thread."""
        self._keep_running = True
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="langchain-sift-store").start()

    @classmethod
    def acquire(cls) -> CallThread:
        """Return an idle thread, or start a new one."""
        try:
            return cls.idle.pop()
        except IndexError:
            return cls()

    def start(self, function: Callable[[], Any], deliver: Callable[[Outcome], object]) -> None:
        """Call the function in the caller's context, and then `deliver` with its outcome."""
        context = contextvars.copy_context()

        def job() -> None:
            """Deliver the outcome of the function when this thread can take another."""
            outcome: Outcome
            try:
                outcome = context.run(function), None
            except BaseException as error:  # noqa: BLE001 - raised again in the caller
                outcome = None, error
            self.idle.append(self)
            if len(self.idle) > MAX_IDLE:
                self._keep_running = not self._withdraw()
            deliver(outcome)

        self._jobs.put(job)

    def _withdraw(self) -> bool:
        """Leave the idle threads; return False if another call has taken this one meanwhile."""
        try:
            self.idle.remove(self)
        except ValueError:
            return False
        return True

    def _run(self) -> None:
        while self._keep_running:
            self._jobs.get()()


if hasattr(os, "register_at_fork"):  # not on Windows
    # The child of a fork has none of the threads.
    os.register_at_fork(after_in_child=CallThread.idle.clear)


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Call a function in a thread and return its result.

    Raises:
        TimeoutError: If the function does not return in time.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    CallThread.acquire().start(function, outcomes.put)
    result: Result
    try:
        result, error = outcomes.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result


class _Limit:
    """The limit of concurrent calls to one store, and the time of its last answer."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(_MAX_CONCURRENT)
        self.last_answer = -math.inf


# For each event loop and each store, by the store's id. Only the waiting calls refer to a limit,
# so that it goes with the last of them.
_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[int, _Limit]] = (
    WeakKeyDictionary()
)


class StoreClock:
    """Counts the seconds that a store takes for the requests of one search, from coroutines."""

    def __init__(self, seconds: float) -> None:
        """Start with all of the timeout left."""
        self._left = seconds

    @asynccontextmanager
    async def turn(self, store: object) -> AsyncIterator[float]:
        """Wait for a turn among the concurrent calls to a store, and count its seconds.

        The wait does not count while the store answers others. If it answers nobody, the wait
        ends after the timeout, like the calls before it.

        Args:
            store: The store, whose concurrent calls are limited.

        Yields:
            The seconds that are left.

        Raises:
            TimeoutError: If no seconds are left.
        """
        loop = asyncio.get_running_loop()
        limits = _limits.setdefault(loop, WeakValueDictionary())
        limit = limits.setdefault(id(store), _Limit())
        started, left = loop.time(), self._left
        self._left = 0.0  # unless the turn comes, and ends before the deadline

        def deadline() -> float:
            return max(started, limit.last_answer) + left

        async with asyncio.timeout(None) as clock:
            with _ending_at(deadline, clock):
                await limit.turns.acquire()
            end = deadline()
            try:
                clock.reschedule(end)
                yield end - loop.time()
            except (TimeoutError, asyncio.CancelledError):
                raise
            except Exception:
                limit.last_answer = loop.time()
                raise
            else:
                limit.last_answer = loop.time()
            finally:
                self._left = end - loop.time()
                limit.turns.release()


@contextmanager
def _ending_at(deadline: Callable[[], float], clock: asyncio.Timeout) -> Iterator[None]:
    """Let the clock run out at a deadline that may move on meanwhile."""
    loop = asyncio.get_running_loop()

    timers: list[asyncio.TimerHandle] = []

    def look() -> None:
        """End the wait, or look again at the new deadline."""
        if loop.time() < deadline():
            timers[:] = [loop.call_at(deadline(), look)]
        else:
            clock.reschedule(loop.time())

    look()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


async def awithin(seconds: float, function: Callable[[], Result], store: object) -> Result:
    """Do as `within` does, without blocking the event loop.

    Args:
        seconds: The timeout, from the call's turn on; see `StoreClock.turn`.
        function: The call of the store.
        store: The store, whose concurrent calls are limited.
    """
    async with StoreClock(seconds).turn(store):
        return await in_thread(function)


async def in_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a thread that the caller can abandon, and return its result.

    The event loop's executor is not used: it has few threads, and a store that hangs would take
    them from the rest of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        """Give the outcome to the caller, in the thread of its event loop."""
        if future.done():  # the caller no longer waits
            return
        result, error = outcome
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):  # a future refuses it
            future.set_exception(RuntimeError("StopIteration"))
        else:
            future.set_exception(error)

    def deliver(outcome: Outcome) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    CallThread.acquire().start(function, deliver)
    return await future
