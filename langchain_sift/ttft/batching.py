"""A queue, and the one thread that takes requests out of it, several at a time."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from langchain_sift.config import Limits
from langchain_sift.errors import RequestCancelled
from langchain_sift.ttft.admission import Admission
from langchain_sift.ttft.tickets import Ticket

_IDLE_SECONDS = 2.0  # after that the thread ends, and lets go of the model; the next starts another


class Batcher:
    """Gathers requests into batches, in the order in which they came, and has them done."""

    def __init__(
        self, do: Callable[[list[Ticket]], None], admission: Admission, limits: Limits
    ) -> None:
        """Start with an empty queue; the thread comes with the first request.

        Args:
            do: Does a batch, and finishes each of its tickets; raises nothing.
            admission: Tells how many requests are on their way.
            limits: Of a batch's size and of how long it is waited for.
        """
        self._do = do
        self._admission = admission
        self._limits = limits
        self._queue: deque[Ticket] = deque()
        # Entered itself, not through the condition: an interrupt inside the condition's own
        # Python code would leave it locked for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._batch: list[Ticket] = []
        self._closed = False
        _open_batchers.add(self)

    def put(self, ticket: Ticket) -> None:
        """Append a request.

        Raises:
            RequestCancelled: If the batcher is closed.
        """
        with self._lock:
            if self._closed:
                raise RequestCancelled("the engine is closed")
            ticket.leave_queue = self._remove
            try:
                self._queue.append(ticket)
                # In a forked child the thread is not alive, whatever the parent's was.
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._serve, name="langchain-sift-engine", daemon=True
                    )
                    self._thread.start()
                self._changed.notify_all()
            except BaseException:  # an interrupt, or there can be no more threads
                ticket.cancel()
                raise

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def at_work(self) -> int:
        """Requests in the batch that is being done."""
        return len(self._batch)

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    def close(self) -> None:
        """Refuse what comes, cancel what is there, and wait for the thread to end."""
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
            self._do(batch)
            with self._lock:
                self._batch = []

    def _next(self) -> list[Ticket]:
        with self._lock:
            while not self._batch:
                while not self._queue:
                    if self._closed or not self._changed.wait_for(self._has_work, _IDLE_SECONDS):
                        self._thread = None
                        return []
                self._gather()
                self._batch = self._take()
            return self._batch

    def _has_work(self) -> bool:
        return bool(self._queue) or self._closed

    def _gather(self) -> None:
        """Wait for requests that are on their way; one that is alone waits for nobody."""
        until = time.perf_counter() + self._limits.gather_seconds
        while len(self._queue) < min(self._limits.max_batch_size, self._admission.requests):
            left = until - time.perf_counter()
            if left <= 0 or self._closed:
                return
            self._changed.wait(min(left, threading.TIMEOUT_MAX))

    def _remove(self, ticket: Ticket) -> None:
        """Let a cancelled request make room at once, and not when a batch is done.

        One call on the queue and no lock: whoever removes the ticket from it finishes it.
        """
        try:
            self._queue.remove(ticket)
        except ValueError:  # at work, or done
            return
        ticket.finish(ticket.stop_error())

    def _take(self) -> list[Ticket]:
        """Take the first request, and those after it that can be done with it."""
        batch: list[Ticket] = []
        passed_over: list[Ticket] = []
        while len(batch) < self._limits.max_batch_size:
            try:
                ticket = self._queue.popleft()
            except IndexError:  # also where the last one has just been cancelled
                break
            if ticket.should_stop():
                ticket.finish(ticket.stop_error())
            elif batch and ticket.request.task_type is not batch[0].request.task_type:
                passed_over.append(ticket)
            else:
                batch.append(ticket)
        self._queue.extendleft(reversed(passed_over))
        return batch


_open_batchers: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _close_all() -> None:
    """Let no thread be inside PyTorch when the interpreter goes."""
    for batcher in list(_open_batchers):
        batcher.close()


atexit.register(_close_all)
