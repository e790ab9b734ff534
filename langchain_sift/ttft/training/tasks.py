"""Describe the training of one slot, follow its progress and record its result."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.model.tokens import TokenizedDocument

NO_DOCUMENT = "no document to train on"
"""The fallback of a request without a document that is long enough."""

BUDGET_SPENT = "the budget of documents or tokens was spent"
"""The reason why training ended before the last documents."""

STOPPED = "the training was stopped"
"""The reason why training ended if the client ended it, or the request was cancelled."""


@dataclass(frozen=True, slots=True)
class Step:
    """One gradient step."""

    number: int
    """Number of the step, from 1."""

    document: int
    """Index of the document among the request's documents."""

    loss: float
    """Mean loss on the document just before the step, in nats per token."""

    tokens: int
    """Number of tokens of the document."""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """The record of a training on one prompt's documents."""

    losses: tuple[float, ...] = ()
    """Mean loss on each step's document just before the step, in nats per token."""

    tokens: int = 0
    """Number of tokens trained on, repeats counted."""

    trained: tuple[int, ...] = ()
    """Indices of the documents with at least one step, in order."""

    skipped: tuple[int, ...] = ()
    """Indices of the documents with fewer than two tokens. Documents beyond `max_documents` are
    not examined."""

    truncated: tuple[int, ...] = ()
    """Indices of the documents cut at `max_length`."""

    learning_rate: float | None = None
    """Learning rate of the steps. None means that there was no step."""

    update_norm: float = 0.0
    """Frobenius norm of all updates, relative to that of the weights they are added to."""

    drift: float | None = None
    """Increase of the loss on `drift_texts`, in nats per token. None means no such texts."""

    ended: str | None = None
    """Reason why training ended early. None means that it ran to the end."""

    layers: tuple[str, ...] = ()
    """Names of the layers with an adapter, "*" for the number of a decoder layer."""

    left_out: tuple[str, ...] = ()
    """Names of the weights of experts that cannot get an adapter, in the same form."""

    weights: int = 0
    """Number of weights of the adapter."""

    seconds: float = 0.0
    """Seconds from the first step to the last, without milestones, for all prompts of the batch."""

    seconds_teacher: float = 0.0
    """Seconds in which the teacher of the objective "distill" wrote and read, for this prompt."""

    fallback: str | None = None
    """Reason why the base model answers. None means that the fine-tuned model answers."""

    @property
    def steps(self) -> int:
        """Number of gradient steps."""
        return len(self.losses)


@dataclass(slots=True, kw_only=True, eq=False)
class TrainingTask:
    """The documents that one slot trains on, and the progress of the training."""

    documents: Sequence[TokenizedDocument]
    """Documents to train on, most informative first."""

    config: FineTuneConfig

    on_step: Callable[[Step], bool] | None = None
    """Called after each step. Training ends if it returns True."""

    milestones: Mapping[int, Callable[[float], None]] = field(default_factory=dict)
    """Functions to call after a number of steps, with the seconds of training so far. The slot
    is then in the state in which training would have ended there."""

    start: torch.Tensor | None = None
    """Weights of the adapter to train on from, shape (size,). None means the initial weights."""

    skipped: tuple[int, ...] = ()
    """Indices of the documents that are too short."""

    omitted: int = 0
    """Number of documents beyond `max_documents`."""

    seconds_teacher: float = 0.0
    """As in `TrainingRecord`; a part of `max_train_seconds`."""

    teacher_ended: str | None = None
    """Reason why the teacher left out the last lessons. None means that it left out none."""

    slot: int = field(default=0, init=False)
    losses: list[float] = field(default_factory=list, init=False)
    learning_rate: float | None = field(default=None, init=False)
    update_norm: float = field(default=0.0, init=False)
    ended: str | None = field(init=False)
    fallback: str | None = field(default=None, init=False)

    taken: int = field(default=0, init=False)
    """Number of steps begun."""

    document: TokenizedDocument = field(init=False, repr=False)
    """The current step's document, once a step is begun."""

    is_fresh: bool = field(default=True, init=False)
    """If True, the current step computes its gradient; otherwise it uses the last step's again."""

    loss: torch.Tensor = field(init=False, repr=False)
    """Loss of the last computed gradient. Reading it may wait for the device."""

    _plan: list[TokenizedDocument] = field(init=False, repr=False)
    _repeats: int = field(default=0, init=False, repr=False)
    _stopped: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Plan the steps."""
        self._plan = plan(self.documents, self.config)
        limited = budget_limit(len(self._plan), self.documents, self.config, self.omitted)
        self.ended = self.teacher_ended or limited
        self.fallback = None if self._plan else NO_DOCUMENT

    def advance(self, began: float) -> bool:
        """Begin the next step.

        Args:
            began: Start of the training, by `time.perf_counter`.

        Returns:
            False if training ends instead.
        """
        if self.fallback is not None or self.taken == len(self._plan):
            return False
        seconds = self.config.max_train_seconds
        spent = time.perf_counter() - began + self.seconds_teacher
        if seconds is not None and self.taken and spent > seconds:
            self.ended = time_was_up(seconds)
        elif self._stopped:
            self.ended = STOPPED
        else:
            document = self._plan[self.taken]
            repeats = self.taken > 0 and document.teaches_as(self.document)
            self._repeats = self._repeats + 1 if repeats else 0
            self.document = document
            # HullFT, arXiv 2605.30337: compute the gradient of a repeat every r-th time only.
            self.is_fresh = self._repeats % self.config.gradient_reuse == 0
            self.taken += 1
            return True
        del self._plan[self.taken :]
        return False

    def record_loss(self, loss: float) -> None:
        """Record the loss of the earliest step without one; end training if it is not finite."""
        if self.fallback is not None:
            return
        if not math.isfinite(loss):
            self.fallback = f"the loss was not finite in step {len(self.losses) + 1}"
            return
        document = self._plan[len(self.losses)]
        self.losses.append(loss)
        if self.on_step is not None:
            step = Step(len(self.losses), document.index, loss, len(document.token_ids))
            self._stopped = self.on_step(step)

    def record(self, seconds: float) -> TrainingRecord:
        """Return the record of the training, which took this many seconds."""
        trained = self._plan[: len(self.losses)]
        return TrainingRecord(
            losses=tuple(self.losses),
            tokens=sum(len(document.token_ids) for document in trained),
            trained=tuple(dict.fromkeys(document.index for document in trained)),
            skipped=self.skipped,
            truncated=tuple(dict.fromkeys(d.index for d in self.documents if d.truncated)),
            learning_rate=self.learning_rate,
            update_norm=self.update_norm if self.fallback is None else 0.0,
            ended=self.ended,
            seconds=seconds if trained else 0.0,
            seconds_teacher=self.seconds_teacher,
            fallback=self.fallback,
        )


def time_was_up(seconds: float) -> str:
    """Return the reason why training ended at `max_train_seconds`."""
    return f"max_train_seconds ({seconds} s) was reached"


def record_losses(tasks: Sequence[TrainingTask], losses: torch.Tensor) -> None:
    """Record the loss of one step of each task; waits for the device."""
    for task, loss in zip(tasks, losses.tolist(), strict=True):
        task.record_loss(loss)


def plan(documents: Sequence[TokenizedDocument], config: FineTuneConfig) -> list[TokenizedDocument]:
    """Return the document of each step, in order, within the token budget."""
    steps = [document for document in documents for _ in range(config.steps_per_document)]
    if config.max_train_tokens is None:
        return steps
    tokens = itertools.accumulate(len(document.token_ids) for document in steps)
    return steps[: sum(total <= config.max_train_tokens for total in tokens)]


def budget_limit(
    steps: int, documents: Sequence[TokenizedDocument], config: FineTuneConfig, omitted: int
) -> str | None:
    """Return the reason why a plan has no more steps, or None if it covers all documents.

    Args:
        steps: Number of planned steps.
        documents: Documents of the request.
        config: Steps per document and the budget.
        omitted: Number of documents beyond `max_documents`.
    """
    if steps < len(documents) * config.steps_per_document or omitted:
        return BUDGET_SPENT
    return None
