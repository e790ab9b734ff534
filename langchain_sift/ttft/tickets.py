"""A request that was handed in: its events as they come, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, replace

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import RequestCancelled, RequestTimeout
from langchain_sift.ttft.admission import Place
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.training.trainer import Step, TrainingRecord, budget_spent

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Contexts and targets, token ids."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Continue a prompt of token ids."""

    prompt: Sequence[int]
    config: GenerationConfig
    pairs: Pairs = ()
    """To be scored as well, as in `Scoring`."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """Tell how likely each target is after its context, both token ids."""

    pairs: Pairs
    after: Sequence[int] = ()
    """Also when so many of the documents were learned from."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """What a model predicted on the way, as one that had learned from no more documents."""

    documents: int
    nats: tuple[float, ...]
    tokens: int
    """Learned from so far, repeats counted."""

    seconds: float
    """Of training so far, that of prompts trained together included."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What one prompt asks of the engine: learn, then do the task, then forget."""

    documents: Sequence[TokenizedDocument]
    """To learn from, most informative first."""

    given: int
    """How many texts there were, with those too short to learn from and those too many."""

    config: FineTuneConfig

    task: Answering | Scoring | None = None

    adapter: TrainedAdapter | None = None
    """One trained before, in place of learning from the documents."""

    keep: bool = False
    """Whether the adapter's weights are part of the outcome."""

    untaught: str | None = None
    """Why nothing is to be learned, where that was decided before."""

    @property
    def skipped(self) -> tuple[int, ...]:
        """Places of the texts looked at that were too short to learn from."""
        places = {document.index for document in self.documents}
        return tuple(place for place in range(self.given - self.unread) if place not in places)

    @property
    def unread(self) -> int:
        """How many texts were not looked at, as there were `max_documents` before them."""
        if len(self.documents) == self.config.max_documents:
            return self.given - self.documents[-1].index - 1
        return 0

    @property
    def kind(self) -> type | None:
        """What its task is: one batch has one kind."""
        return None if self.task is None else type(self.task)

    def taught_by(self, adapter: TrainedAdapter) -> Request:
        """Return the request with what was learned before, in place of learning it.

        It was learned from the same tokens in the same order. They may have stood at other places
        among the texts given, between others that were too short or too many.
        """
        places = [document.index for document in self.documents]
        before = replace(
            adapter.training,
            seconds=0.0,
            trained=tuple(places[: len(adapter.training.trained)]),
            skipped=self.skipped,
            truncated=tuple(document.index for document in self.documents if document.truncated),
            ended=budget_spent(adapter.training.steps, self.documents, self.config, self.unread),
        )
        return replace(self, documents=(), given=0, adapter=replace(adapter, training=before))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a request, apart from the text of its answer."""

    training: TrainingRecord
    tokens: int = 0
    """Of the answer."""

    finish_reason: str = "stop"
    """Why the answer has no more tokens: "stop", it came to its end or to a stop string, or
    "length", there were to be no more."""

    nats: tuple[float, ...] = ()
    """Negative log-likelihood of each target."""

    milestones: tuple[Milestone, ...] = ()
    """The same on the way, for each of `Scoring.after` that came before the end."""

    adapter: TrainedAdapter | None = None
    """What was learned, where it was to be kept."""

    together: int = 1
    """Requests that were done together with it, itself included."""

    seconds_waiting: float = 0.0
    """From being handed in to the first step."""

    seconds_task: float = 0.0


Event = Step | str | Outcome
"""A gradient step, a piece of the answer, and last what came of it all."""


class Ticket:
    """One request from being handed in to its outcome.

    Iterate over it, once, in a thread or in a coroutine. Leaving the iteration early, however
    that happens, cancels the request.
    """

    def __init__(
        self,
        request: Request,
        place: Place,
        *,
        timeout: float | None = None,
        since: float | None = None,
    ) -> None:
        """Prepare a request.

        Args:
            request: What is asked.
            place: Given back when the request is done.
            timeout: Seconds in which it must be done; None: any time.
            since: When they began, by `time.perf_counter`; by default now.
        """
        self.request = request
        self.place = place
        self.handed_in = time.perf_counter()
        self.done = threading.Event()
        """Set once the engine has nothing more to do with it."""
        self._timeout = timeout
        self._since = self.handed_in if since is None else since
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

    def why_stopped(self) -> RequestCancelled | RequestTimeout:
        """Return the error of a request that was told to stop."""
        if self._cancelled:
            return RequestCancelled("the request was cancelled before its answer was complete")
        return self._too_late()

    def _seconds_left(self) -> float:
        if self._timeout is None:
            return float("inf")
        return self._since + self._timeout - time.perf_counter()

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
        self.place.give_back()
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
