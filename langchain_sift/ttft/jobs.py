"""Keep the state of one attempt at a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from langchain_sift.ttft.requests import Milestone
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.tasks import TrainingRecord
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter


@dataclass(slots=True)
class Job:
    """One attempt at a ticket's request."""

    ticket: Ticket
    slot: int = 0
    began: float = 0.0
    """Start of the attempt, by `time.perf_counter`."""
    batch_size: int = 1
    training: TrainingRecord = field(default_factory=TrainingRecord)
    adapter: TrainedAdapter | None = None
    nats: tuple[float, ...] = ()
    milestones: list[Milestone] = field(default_factory=list)

    def retry(self, failure: BaseException) -> Job:
        """Return another attempt at the same ticket."""
        self.ticket.retry(failure)
        return Job(self.ticket)


def without_frames(error: BaseException) -> BaseException:
    """Remove the frames of an error and its causes: they refer to tensors of the failed step."""
    errors = [error]
    for link in errors:
        link.__traceback__ = None
        causes = (link.__cause__, link.__context__)
        errors.extend(cause for cause in causes if cause is not None and cause not in errors)
    return error


def need(ticket: Ticket) -> tuple[int, bool]:
    """Return the number of steps of a request, and whether it has an adapter to use instead."""
    request = ticket.request
    taught = sum(lesson.repeats for lesson in request.lessons)
    steps = (taught or len(request.documents)) * request.config.steps_per_document
    return steps, request.adapter is not None
