"""Keep the state of one request while the worker is busy with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from langchain_sift.ttft.requests import Milestone, Outcome
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.tasks import Step, TrainingRecord
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter


@dataclass(slots=True)
class Job:
    """A ticket while the worker is busy with it; a retry is another job of the same ticket."""

    ticket: Ticket
    slot: int = 0
    training: TrainingRecord = field(default_factory=TrainingRecord)
    adapter: TrainedAdapter | None = None
    nats: tuple[float, ...] = ()
    milestones: list[Milestone] = field(default_factory=list)
    began: float = 0.0
    batch_size: int = 1
    steps: int = 0
    """Number of gradient steps that the client has received."""

    text: list[str] = field(default_factory=list)
    """Pieces of the answer that the client has received."""

    to_repeat: str = ""
    """Text of an earlier attempt that this attempt has not generated again yet."""

    failure: BaseException | None = None
    """Error of the earlier attempt."""

    def retry(self, failure: BaseException) -> Job:
        """Return a job for another attempt, which sends nothing to the client twice."""
        return Job(
            self.ticket,
            steps=self.steps,
            text=self.text,
            to_repeat="".join(self.text),
            failure=failure,
        )

    def report_step(self, step: Step) -> None:
        """Send a gradient step to the client."""
        if step.number > self.steps:
            self.steps = step.number
            self.ticket.put(step)

    def report_text(self, text: str) -> None:
        """Send a piece of the answer to the client."""
        repeated = self.to_repeat[: len(text)]
        if not text.startswith(repeated):
            self._fail()
            return
        self.to_repeat = self.to_repeat[len(text) :]
        if new := text[len(repeated) :]:
            self.text.append(new)
            self.ticket.put(new)

    def _fail(self) -> None:
        """End a retry whose answer differs from the text that the client has received."""
        assert self.failure is not None  # noqa: S101 - there was an earlier attempt
        self.ticket.finish(self.failure)

    def finish(self, began: float, tokens: int = 0, reason: str = "stop") -> None:
        """Send the outcome to the client.

        Args:
            began: When the task began, by `time.perf_counter`.
            tokens: Number of tokens of the answer.
            reason: The answer's `finish_reason`.
        """
        if self.ticket.should_stop():
            self.ticket.finish(self.ticket.stop_error())
            return
        if self.to_repeat:
            self._fail()
            return
        self.ticket.finish(
            Outcome(
                training=self.training,
                tokens=tokens,
                finish_reason=reason,
                nats=self.nats,
                milestones=tuple(self.milestones),
                batch_size=self.batch_size,
                adapter=self.adapter,
                seconds_waiting=self.began - self.ticket.submitted_at,
                seconds_task=time.perf_counter() - began,
            )
        )


def without_frames(error: BaseException) -> BaseException:
    """Remove the frames of an error and of its causes: they refer to the failed step's tensors."""
    errors = [error]
    for link in errors:
        link.__traceback__ = None
        causes = (link.__cause__, link.__context__)
        errors.extend(cause for cause in causes if cause is not None and cause not in errors)
    return error
