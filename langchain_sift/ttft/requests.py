"""TODO: describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.tasks import Step, TrainingRecord, budget_limit
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Contexts and targets, token ids."""


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Continue a prompt of token ids."""

    prompt: Sequence[int]
    config: GenerationConfig
    pairs: Pairs = ()
    """To be scored as well, as in `ScoringTask`."""


@dataclass(frozen=True, slots=True)
class ScoringTask:
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

    num_texts: int
    """How many texts there were, with those too short to learn from and those too many."""

    config: FineTuneConfig

    task: GenerationTask | ScoringTask | None = None

    adapter: TrainedAdapter | None = None
    """One trained before, in place of learning from the documents."""

    keep_adapter: bool = False
    """Whether the adapter's weights are part of the outcome."""

    skip_reason: str | None = None
    """Why nothing is to be learned, where that was decided before."""

    @property
    def skipped(self) -> tuple[int, ...]:
        """Indices of the texts that were too short to train on, of those that were looked at."""
        indices = {document.index for document in self.documents}
        looked_at = range(self.num_texts - self.omitted)
        return tuple(index for index in looked_at if index not in indices)

    @property
    def omitted(self) -> int:
        """How many texts were not looked at, as there were `max_documents` before them."""
        if len(self.documents) == self.config.max_documents:
            return self.num_texts - self.documents[-1].index - 1
        return 0

    @property
    def task_type(self) -> type | None:
        """What its task is: one batch has one kind."""
        return None if self.task is None else type(self.task)

    def with_adapter(self, adapter: TrainedAdapter) -> Request:
        """Return the request with what was learned before, in place of learning it.

        It was learned from the same tokens in the same order. They may have stood at other places
        among the texts given, between others that were too short or too many.
        """
        reservations = [document.index for document in self.documents]
        before = replace(
            adapter.training,
            seconds=0.0,
            trained=tuple(reservations[: len(adapter.training.trained)]),
            skipped=self.skipped,
            truncated=tuple(document.index for document in self.documents if document.truncated),
            ended=budget_limit(adapter.training.steps, self.documents, self.config, self.omitted),
        )
        return replace(self, documents=(), num_texts=0, adapter=replace(adapter, training=before))


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
    """The same on the way, for each of `ScoringTask.after` that came before the end."""

    adapter: TrainedAdapter | None = None
    """What was learned, where it was to be kept."""

    batch_size: int = 1
    """Requests that were done together with it, itself included."""

    seconds_waiting: float = 0.0
    """From being handed in to the first step."""

    seconds_task: float = 0.0


Event = Step | str | Outcome
"""A gradient step, a piece of the answer, and last what came of it all."""
