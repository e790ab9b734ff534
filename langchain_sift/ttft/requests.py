"""Describe one request to the engine: its documents, its task and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import NothingToLearn, TrainingError
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.lessons import Lesson
from langchain_sift.ttft.training.tasks import NO_DOCUMENT, Step, TrainingRecord, budget_limit
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Contexts and targets as token ids."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The log-probability of one token, as the model gives it: before sampling and grammars."""

    token_id: int
    log_p: float
    """In nats."""

    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place, with their log-probabilities, the likeliest first."""

    is_end: bool = False
    """True for a token that ends the answer and is no part of its text."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """The scores of the prompt's tokens, except for the first, which nothing predicts."""

    scores: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Generate the answer to a prompt."""

    prompt: Sequence[int]
    """Token ids."""

    config: GenerationConfig
    """Settings of the generation. `max_tokens` never exceeds the rest of the model's context."""

    pairs: Pairs = ()
    """Texts to score as well, as in `ScoringTask`."""

    grammar: str | None = None
    """The grammar that the answer follows, as llguidance takes it. None means any text."""

    top_scores: int | None = None
    """Number of likeliest tokens that each `TokenScore` of the answer lists. None means that
    tokens are not scored."""

    score_prompt: bool = False
    """If True, the tokens of the prompt are scored as well, with `top_scores` alternatives."""


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """Compute the negative log-likelihood of each target after its context."""

    pairs: Pairs

    after: Sequence[int] = ()
    """Numbers of documents after which the pairs are also scored during training."""


Task = GenerationTask | ScoringTask


@dataclass(frozen=True, slots=True)
class Milestone:
    """The scores of a `ScoringTask` during training."""

    documents: int
    """Number of documents trained on, those that are too short included."""

    nats: tuple[float, ...]
    """Negative log-likelihood of each target."""

    tokens: int
    """Number of tokens trained on so far, repeats counted."""

    seconds: float
    """Seconds of training so far, for all requests of the batch."""

    adapter: torch.Tensor | None = None
    """The weights of the adapter then, shape (size,), if the request keeps its adapter."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request to the engine: fine-tune on the documents, run the task, reset the slot."""

    documents: Sequence[TokenizedDocument]
    """Documents to train on, most informative first."""

    config: FineTuneConfig

    task: Task | None = None
    """None means that the request only trains."""

    lessons: tuple[Lesson, ...] = ()
    """The lessons that a teacher gives on the documents, with the objective "distill"; the model is
    then trained on the lessons."""

    training_tokens: int = 0
    """Maximum number of tokens to train on, repeats counted."""

    skipped: tuple[int, ...] = ()
    """Indices of the texts that are too short to train on."""

    omitted: int = 0
    """Number of texts beyond `max_documents`, which were not tokenized."""

    adapter: TrainedAdapter | None = None
    """A trained adapter to use instead of training, or with documents, to train on."""

    keep_adapter: bool = False
    """If True, the outcome contains the adapter's weights."""

    skip_reason: str | None = None
    """Reason to skip the training. None means to train."""

    def with_adapter(self, adapter: TrainedAdapter, *, keep_seconds: bool = False) -> Request:
        """Replace the training by an adapter that was trained on the same tokens.

        The documents may have had other indices then, among other texts that were too short or
        too many: the adapter's record gets the indices of this request.

        Args:
            adapter: The adapter.
            keep_seconds: If True, the record keeps the seconds of that training.
        """
        indices = [document.index for document in self.documents]
        steps = adapter.training.steps
        record = replace(
            adapter.training,
            seconds=adapter.training.seconds if keep_seconds else 0.0,
            seconds_teacher=adapter.training.seconds_teacher if keep_seconds else 0.0,
            trained=tuple(indices[: len(adapter.training.trained)]),
            skipped=self.skipped,
            truncated=tuple(document.index for document in self.documents if document.truncated),
            ended=adapter.training.ended
            if self.lessons
            else budget_limit(steps, self.documents, self.config, self.omitted),
        )
        adapter = replace(adapter, training=record)
        bare = replace(self, documents=(), lessons=(), training_tokens=0, skipped=(), omitted=0)
        return replace(bare, adapter=adapter)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The outcome of a request, except for the text of its answer."""

    training: TrainingRecord

    tokens: int = 0
    """Number of tokens of the answer."""

    reasoning_tokens: int = 0
    """Number of those of the reasoning."""

    finish_reason: str = "stop"
    """"stop" if the answer ended by itself, at a stop string or with its grammar; "length" at
    `max_tokens`."""

    shortened: bool = False
    """True if the grammar of the answer was completed early to fit `max_tokens`."""

    nats: tuple[float, ...] = ()
    """Negative log-likelihood of each target."""

    milestones: tuple[Milestone, ...] = ()
    """Scores during training, for each of `ScoringTask.after` that training reached."""

    adapter: TrainedAdapter | None = None
    """The trained adapter, if the request keeps it and training succeeded."""

    batch_size: int = 1
    """Number of requests in the batch, this one included."""

    seconds_waiting: float = 0.0
    """Seconds from the submission to the start of the batch."""

    seconds_task: float = 0.0
    """Seconds from the start of the batch's tasks to the end of this one."""

    def trained(self) -> TrainedAdapter:
        """Return the trained adapter.

        Raises:
            NothingToLearn: If there was no document to train on, or no room for a step on it.
            TrainingError: If training failed.
        """
        if self.training.fallback == NO_DOCUMENT:
            raise NothingToLearn(
                "there is no document to train on: all have fewer than two tokens, or the first "
                "has more than max_train_tokens"
            )
        if self.adapter is None:
            raise TrainingError(f"there is no adapter to return: {self.training.fallback}")
        return self.adapter


Event = Step | PromptScores | TokenScore | str | Outcome
"""A gradient step, the scores of the prompt, the score of a token of the answer, a piece of the
answer, or the outcome, which comes last. A score comes before the text that its token completes."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The current load of an engine, and its quarantines since it started."""

    admitted: int
    """Number of requests that are admitted and not done."""

    admitted_tokens: int
    """Number of training tokens that these requests reserve."""

    waiting: int
    """Number of requests in the queue."""

    at_work: int
    """Number of requests in the current batch."""

    idle_seconds: float
    """Seconds since the current batch last progressed by a step or a token; 0 without a batch."""

    quarantined: int
    """Number of times that a slot was not at rest after a batch, so all slots were replaced."""

    estimated_memory: int | None
    """Bytes in use at the peak so far, by estimate, the model included. None means that the engine
    makes no estimates: it has no limit, and nobody called `memory.watch`."""

    peak_memory: int
    """The same as measured: resident bytes of the process on a CPU, allocated ones on a GPU. 0
    means unknown."""
