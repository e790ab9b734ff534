"""Pass the events of a request from the engine to the client."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator

from langchain_sift.errors import RequestCancelled, RequestTimeout, TrainingError
from langchain_sift.ttft.admission import Reservation
from langchain_sift.ttft.requests import Event, Outcome, PromptScores, Request, TokenScore
from langchain_sift.ttft.training.tasks import Step


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
        self.progressed_at = self.submitted_at
        """When the engine last reported something, by `time.perf_counter`."""
        self.text = ""
        """Text of the answer that was sent to the client."""
        self.failure: BaseException = TrainingError("the engine lost the request: this is a bug")
        """Error of the last attempt."""
        self._steps = 0  # gradient steps that were sent
        self._scores = self._scores_to_repeat = 0  # scores of tokens that were sent
        self._sent_prompt_scores = False
        self._to_repeat = ""  # text of an earlier attempt that this attempt has to generate again
        self._timeout = timeout
        started = self.submitted_at if started is None else started
        self._deadline = math.inf if timeout is None else started + timeout
        self._cancelled = self._ends_training = False
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._wake: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Cancel the request: the engine stops within one gradient step or one token.

        A finalizer may call this anywhere, so it takes no lock that another thread may hold long.
        """
        self._cancelled = True
        if self.leave_queue is not None and not self.done.is_set():
            self.leave_queue(self)

    def end_training(self) -> None:
        """End the training within one gradient step, and run the task with what was learned.

        A handler of signals may call this.
        """
        self._ends_training = True

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

    def report_progress(self) -> bool:
        """Note that the engine is at work on the request; return True to stop."""
        self.progressed_at = time.perf_counter()
        return self.should_stop()

    def report_step(self, step: Step) -> bool:
        """Send a gradient step, unless an earlier attempt sent it; return True to stop training."""
        if step.number > self._steps:
            self._steps = step.number
            self._send(step)
        return self.report_progress() or self._ends_training

    def report_prompt_scores(self, scores: PromptScores) -> None:
        """Send the scores of the prompt, unless an earlier attempt sent them."""
        if not self._sent_prompt_scores:
            self._sent_prompt_scores = True
            self._send(scores)

    def report_score(self, score: TokenScore) -> None:
        """Send the score of a token, unless an earlier attempt sent it."""
        if self._scores_to_repeat:
            self._scores_to_repeat -= 1
        else:
            self._scores += 1
            self._send(score)

    def report_text(self, text: str) -> bool:
        """Send the text of one token, perhaps none; return True if generation should stop.

        A retry first generates the text again that the client already has. If it differs, the
        request fails.
        """
        if self.report_progress():
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
        self._scores_to_repeat = self._scores

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
