"""Queue requests, and run them in batches on one thread."""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from langchain_sift.config import Limits
from langchain_sift.errors import RequestCancelled
from langchain_sift.ttft.admission import Admission
from langchain_sift.ttft.tickets import Ticket

_IDLE_SECONDS = 2.0  # then the thread ends and releases the model; the next request starts another


class Batcher:
    """Gathers queued requests into batches, first come first served, and runs them."""

    def __init__(
        self,
        run: Callable[[list[Ticket]], None],
        rest: Callable[[], None],
        admission: Admission,
        limits: Limits,
    ) -> None:
        """Start with an empty queue. The first request starts the thread.

        Args:
            run: Function that runs a batch and finishes its tickets. It never raises.
            rest: Function to call when no request has come for a while. It never raises.
            admission: The number of admitted requests, which may be about to be submitted.
            limits: Maximum size of a batch, and maximum time to wait for more requests.
        """
        self._run = run
        self._rest = rest
        self._admission = admission
        self._limits = limits
        self._queue: deque[Ticket] = deque()
        # Acquire the lock, never the condition: an interrupt inside the condition's Python code
        # would leave it locked forever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._batch: list[Ticket] = []
        self._batch_began = 0.0
        self._closed = False
        _open_batchers.add(self)

    def put(self, ticket: Ticket) -> None:
        """Append a request to the queue.

        Raises:
            RequestCancelled: If the batcher is closed.
        """
        with self._lock:
            if self._closed:
                raise RequestCancelled("the engine is closed")
            ticket.leave_queue = self._remove
            try:
                self._queue.append(ticket)
                # A forked child has no such thread, even if its parent has.
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._serve, name="langchain-sift-engine", daemon=True
                    )
                    self._thread.start()
                self._changed.notify_all()
            except BaseException:  # an interrupt, or the system has no more threads
                ticket.cancel()
                raise

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    @property
    def at_work(self) -> int:
        """Number of requests in the current batch."""
        return len(self._batch)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the current batch last progressed by a step or a token; 0 without one.

        Infinite if the thread has died.
        """
        batch, thread = self._batch, self._thread
        if not (batch or self._queue):
            return 0.0
        if thread is not None and not thread.is_alive():
            return math.inf
        times = [self._batch_began, *(ticket.progressed_at for ticket in batch)]
        return time.perf_counter() - max(times) if batch else 0.0

    @property
    def closed(self) -> bool:
        """If True, the batcher accepts no more requests."""
        return self._closed

    def close(self) -> None:
        """Refuse new requests, cancel all others, and wait for the thread to end."""
        with self._lock:
            self._closed = True
            dropped = list(self._queue)
            self._queue.clear()
            for ticket in self._batch:
                ticket.cancel()
            thread = self._thread
            self._changed.notify_all()
        for ticket in dropped:
            ticket.finish(RequestCancelled("the engine was closed"))
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve(self) -> None:
        while batch := self._next():
            self._run(batch)
            with self._lock:
                self._batch = []

    def _next(self) -> list[Ticket]:
        with self._lock:
            while not self._batch:
                while not self._queue:
                    if self._closed or not self._changed.wait_for(self._has_work, _IDLE_SECONDS):
                        self._rest()  # before another thread can start
                        self._thread = None
                        return []
                self._gather()
                self._batch_began = time.perf_counter()
                self._batch = self._take()
            return self._batch

    def _has_work(self) -> bool:
        return bool(self._queue) or self._closed

    def _gather(self) -> None:
        """Wait for other admitted requests; a request that is alone does not wait."""
        until = time.perf_counter() + self._limits.gather_seconds
        while len(self._queue) < min(self._limits.max_batch_size, self._admission.requests):
            left = until - time.perf_counter()
            if left <= 0 or self._closed:
                return
            self._changed.wait(min(left, threading.TIMEOUT_MAX))

    def _remove(self, ticket: Ticket) -> None:
        """Finish a cancelled request now instead of after the current batch.

        A single call on the queue, without a lock: the thread that removes a ticket finishes it.
        """
        try:
            self._queue.remove(ticket)
        except ValueError:  # in the current batch, or done
            return
        ticket.finish(ticket.stop_error())

    def _take(self) -> list[Ticket]:
        """Take the first request, and later ones with a task of the same type."""
        batch: list[Ticket] = []
        others: list[Ticket] = []
        while len(batch) < self._limits.max_batch_size:
            try:
                ticket = self._queue.popleft()
            except IndexError:  # perhaps the last request has just been cancelled
                break
            if ticket.should_stop():
                ticket.finish(ticket.stop_error())
            elif batch and type(ticket.request.task) is not type(batch[0].request.task):
                others.append(ticket)
            else:
                batch.append(ticket)
        self._queue.extendleft(reversed(others))
        return batch


_open_batchers: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _close_all() -> None:
    """End all threads, so that none is inside PyTorch when the interpreter exits."""
    for batcher in list(_open_batchers):
        batcher.close()


atexit.register(_close_all)
