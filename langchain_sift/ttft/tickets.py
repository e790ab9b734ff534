"""Admit requests, and pass their events from the engine to the client."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType

from langchain_sift.config import Limits
from langchain_sift.errors import EngineOverloaded, RequestCancelled, RequestTimeout, TrainingError
from langchain_sift.ttft.requests import Event, Outcome, Request
from langchain_sift.ttft.training.tasks import Step


class Admission:
    """The reservations of all requests that are not done. Thread-safe; never waits."""

    def __init__(self, limits: Limits) -> None:
        """Start without any reservation."""
        self._limits = limits
        # Reentrant: a finalizer that releases a reservation may run inside any of these methods.
        self._lock = threading.RLock()
        # The references are weak, so a reservation that an interrupt dropped is released, and
        # there is no counter that could stay wrong.
        self.reserved: weakref.WeakKeyDictionary[Reservation, int] = weakref.WeakKeyDictionary()
        """Number of training tokens of each reservation."""

    @property
    def tokens(self) -> int:
        """Number of training tokens of all reservations."""
        with self._lock:
            return sum(self.reserved.values())

    def admit(self, tokens: int) -> Reservation:
        """Reserve room for one request.

        Args:
            tokens: Maximum number of tokens that the request will train on.

        Raises:
            EngineOverloaded: If a limit is reached. Nothing was reserved.
        """
        reservation = Reservation(self)
        with self._lock:
            requests = len(self.reserved)
            if requests >= self._limits.max_requests:
                raise EngineOverloaded(
                    f"{requests} requests are admitted, as many as max_requests allows: "
                    "try again later, or raise Limits.max_requests"
                )
            self._check(tokens, others=requests > 0)
            self.reserved[reservation] = tokens
        return reservation

    def _check(self, tokens: int, *, others: bool) -> None:
        # A request larger than the limit is admitted if it is the only one.
        if others and self.tokens + tokens > self._limits.max_tokens:
            raise EngineOverloaded(
                f"{self.tokens} training tokens are admitted, and {tokens} more would exceed "
                f"max_tokens ({self._limits.max_tokens}): try again later, train on less, or "
                "raise Limits.max_tokens"
            )


class Reservation:
    """Room for one request, until it is released. Releasing it twice does no harm."""

    def __init__(self, admission: Admission) -> None:
        """Belong to an admission, which counts the reservation."""
        self._admission = admission

    def resize(self, tokens: int) -> None:
        """Change the number of training tokens that are reserved.

        Raises:
            EngineOverloaded: If there is no room for more tokens. Nothing has changed.
        """
        admission = self._admission
        with admission._lock:
            if self not in admission.reserved:
                return
            more = tokens - admission.reserved[self]
            if more > 0:
                admission._check(more, others=len(admission.reserved) > 1)
            admission.reserved[self] = tokens

    def release(self) -> None:
        """Make room for another request."""
        with self._admission._lock:
            self._admission.reserved.pop(self, None)

    def __enter__(self) -> Reservation:
        """Return the reservation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the reservation, whether or not the block failed."""
        del kind, error, traceback
        self.release()


class Ticket:
    """A submitted request: the engine reports its events, and the client iterates over them.

    Iterate once, in a thread or in a coroutine. If the iteration ends early, for whatever reason,
    the request is cancelled.
    """

    def __init__(
        self,
        request: Request,
        reservation: Reservation,
        *,
        timeout: float | None = None,
        started: float | None = None,
    ) -> None:
        """Create the ticket of a request.

        Args:
            request: The request.
            reservation: Room for the request; released when it is done.
            timeout: Seconds until it must be done. None means no limit.
            started: Start of these seconds, by `time.perf_counter`; now by default.
        """
        self.request = request
        self.reservation = reservation
        self.submitted_at = time.perf_counter()
        self.done = threading.Event()
        """Set when the engine has finished the request."""
        self.leave_queue: Callable[[Ticket], object] | None = None
        """Called on cancellation; set by the queue."""
        self.text = ""
        """Text of the answer that was sent to the client."""
        self.failure: BaseException = TrainingError("the engine lost the request: this is a bug")
        """Error of the last attempt."""
        self._steps = 0  # gradient steps that were sent
        self._to_repeat = ""  # text of an earlier attempt that this attempt has to generate again
        self._timeout = timeout
        started = self.submitted_at if started is None else started
        self._deadline = math.inf if timeout is None else started + timeout
        self._cancelled = False
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._wake: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Cancel the request: the engine stops within one gradient step or one token.

        A finalizer may call this anywhere, so it takes no lock that another thread may hold long.
        """
        self._cancelled = True
        if self.leave_queue is not None and not self.done.is_set():
            self.leave_queue(self)

    # --- the engine's side ----------------------------------------------------------------

    def should_stop(self) -> bool:
        """Return whether the request is done, cancelled or past its deadline."""
        late = time.perf_counter() >= self._deadline
        return late or self._cancelled or self.done.is_set()

    def stop_error(self) -> RequestCancelled | RequestTimeout:
        """Return the error of a request that should stop."""
        if self._cancelled:
            return RequestCancelled("the request was cancelled before its answer was complete")
        return self._timeout_error()

    def report_step(self, step: Step) -> bool:
        """Send a gradient step, unless an earlier attempt sent it; return True to stop training."""
        if step.number > self._steps:
            self._steps = step.number
            self._send(step)
        return self.should_stop()

    def report_text(self, text: str) -> bool:
        """Send the text of one token, perhaps none; return True if generation should stop.

        A retry first generates the text again that the client already has. If it differs, the
        request fails.
        """
        if self.should_stop():
            return True
        repeated = self._to_repeat[: len(text)]
        if not text.startswith(repeated):
            self.finish(self.failure)
            return True
        self._to_repeat = self._to_repeat[len(text) :]
        if new := text[len(repeated) :]:
            self.text += new
            self._send(type(text)(new))  # reasoning stays reasoning
        return False

    def retry(self, failure: BaseException) -> None:
        """Begin another attempt, which sends nothing twice."""
        self.failure = failure
        self._to_repeat = self.text

    def complete(self, outcome: Outcome) -> None:
        """Finish with an outcome, or with an error if the request should have stopped before."""
        if self.should_stop():
            self.finish(self.stop_error())
        elif self._to_repeat:
            self.finish(self.failure)
        else:
            self.finish(outcome)

    def finish(self, last: Outcome | BaseException) -> None:
        """Send the last event and release the reservation, unless the request is done."""
        if self.done.is_set():
            return
        self.reservation.release()
        self.done.set()
        self._send(last)

    def _send(self, event: Event | BaseException) -> None:
        self._events.put(event)
        wake = self._wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the event loop is closed: there is no client any more
                self.cancel()

    # --- the client's side ----------------------------------------------------------------

    def __iter__(self) -> Generator[Event]:
        """Yield the events; the last one is the outcome.

        Raises:
            RequestCancelled: If the request was cancelled.
            RequestTimeout: If the deadline passes first.
        """
        try:
            while True:
                try:
                    event = self._events.get(timeout=self._seconds_left())
                except queue.Empty:
                    raise self._timeout_error() from None
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Outcome):
                    return
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        """Yield the events without blocking the event loop."""
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
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Outcome):
                    return
        finally:
            self._wake = None
            self.cancel()

    async def _until(self, ready: asyncio.Event) -> None:
        try:
            # Not wait_for, which until Python 3.12 lost a cancellation that came with an event.
            async with asyncio.timeout(self._seconds_left()):
                # An event that came since the last look has set it already.
                await ready.wait()
        except TimeoutError:
            raise self._timeout_error() from None
        ready.clear()

    def _seconds_left(self) -> float | None:
        """Return the seconds to wait at most; a thread cannot wait for more than 292 years."""
        if self._deadline == math.inf:
            return None
        return min(max(0.0, self._deadline - time.perf_counter()), threading.TIMEOUT_MAX)

    def _timeout_error(self) -> RequestTimeout:
        return RequestTimeout(
            f"the prompt was not answered within {self._timeout} s: raise timeout, train on less "
            "(max_documents, max_train_tokens), or send fewer requests at once"
        )
