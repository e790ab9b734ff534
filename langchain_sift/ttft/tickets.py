"""A request that was handed in: its events as they come, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator

from langchain_sift.errors import RequestCancelled, RequestTimeout
from langchain_sift.ttft.admission import Reservation
from langchain_sift.ttft.requests import Event, Outcome, Request


class Ticket:
    """One request from being handed in to its outcome.

    Iterate over it, once, in a thread or in a coroutine. Leaving the iteration early, however
    that happens, cancels the request.
    """

    def __init__(
        self,
        request: Request,
        reservation: Reservation,
        *,
        timeout: float | None = None,
        started: float | None = None,
    ) -> None:
        """Prepare a request.

        Args:
            request: What is asked.
            reservation: Given back when the request is done.
            timeout: Seconds in which it must be done; None: any time.
            started: When they began, by `time.perf_counter`; by default now.
        """
        self.request = request
        self.reservation = reservation
        self.submitted_at = time.perf_counter()
        self.done = threading.Event()
        """Set once the engine has nothing more to do with it."""
        self._timeout = timeout
        self._started = self.submitted_at if started is None else started
        self.leave_queue: Callable[[Ticket], object] | None = None
        """Called when it is cancelled; set by the queue that it waits in."""
        self._cancelled = False
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._wake: Callable[[], object] | None = None

    def cancel(self) -> None:
        """End it: within one gradient step or one token nothing more is done for it.

        Takes no lock that another thread may hold for long: a finalizer may call it anywhere.
        """
        self._cancelled = True
        if self.leave_queue is not None:
            self.leave_queue(self)

    def should_stop(self) -> bool:
        """Return whether it was cancelled or is too late."""
        return self._cancelled or self._seconds_left() <= 0

    def stop_error(self) -> RequestCancelled | RequestTimeout:
        """Return the error of a request that was told to stop."""
        if self._cancelled:
            return RequestCancelled("the request was cancelled before its answer was complete")
        return self._too_late()

    def _seconds_left(self) -> float:
        if self._timeout is None:
            return float("inf")
        return self._started + self._timeout - time.perf_counter()

    def put(self, event: Event | BaseException) -> None:
        """Tell whoever iterates; called by the engine."""
        self._events.put(event)
        wake = self._wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the event loop is closed: nobody waits any more
                self.cancel()

    def finish(self, last: Outcome | BaseException) -> None:
        """Tell the outcome, and give the place back; called by the engine; once is enough."""
        if self.done.is_set():
            return
        self.reservation.release()
        self.done.set()
        self.put(last)

    def __iter__(self) -> Generator[Event]:
        """Yield what happens; the last is the outcome.

        Raises:
            RequestTimeout: If it was not done in time.
        """
        try:
            while True:
                try:
                    event = self._events.get(timeout=self._wait())
                except queue.Empty:
                    raise self._too_late() from None
                yield self._checked(event)
                if isinstance(event, Outcome):
                    return
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        """As `__iter__`, without holding a thread."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(ready.set)
        try:
            while True:
                try:
                    event = self._events.get_nowait()
                except queue.Empty:
                    await self._until(ready)
                    continue
                yield self._checked(event)
                if isinstance(event, Outcome):
                    return
        finally:
            self._wake = None
            self.cancel()

    async def _until(self, ready: asyncio.Event) -> None:
        try:
            # Not wait_for: until Python 3.12 it forgot a cancellation that came with an event.
            async with asyncio.timeout(self._wait()):
                # What came between the last look and now has set it already.
                await ready.wait()
        except TimeoutError:
            raise self._too_late() from None
        ready.clear()

    def _wait(self) -> float | None:
        left = self._seconds_left()
        # What a wait can be told at most are 292 years.
        return None if left == float("inf") else min(max(0.0, left), threading.TIMEOUT_MAX)

    def _checked(self, event: Event | BaseException) -> Event:
        if isinstance(event, BaseException):
            raise event
        return event

    def _too_late(self) -> RequestTimeout:
        msg = (
            f"the prompt was not answered within {self._timeout} s: raise timeout, learn from "
            "less (max_documents, max_train_tokens), or ask less at once"
        )
        return RequestTimeout(msg)
