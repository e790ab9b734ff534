"""Test-time fine-tuning: one gradient step on each document, the most informative first.

The recipe of arXiv 2410.08020, section 6 (after Hardt & Sun, arXiv 2305.18466), with adapters
in place of all weights, as the paper does for its larger models; and several prompts at once:
row i of a batch is the next document of the prompt in slot i, and its loss, gradient, clipping
and optimizer are its own. What a prompt learns does not depend on those beside it.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.cuda_graphs import Recorder
from langchain_sift.ttft.training.lora import Slots
from langchain_sift.ttft.training.loss import Targets, linear_head, make_targets, row_losses

# What one more pass over the model costs, in tokens that could have been padding instead.
_TOKENS_PER_PASS = 64

# On a GPU documents are padded to a multiple of this, so that few lengths are recorded.
_BUCKET = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One gradient step, as it happened."""

    number: int
    """From 1."""

    document: int
    """Index of the document among those given."""

    loss: float
    """Mean loss in nats per token on the document, just before the step."""

    tokens: int


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What training on one prompt's documents did."""

    losses: tuple[float, ...] = ()
    """Mean loss in nats per token, on each step's document just before the step."""

    tokens: int = 0
    """Tokens learned from, repeats counted."""

    trained: tuple[int, ...] = ()
    """Indices of the documents that a step was taken on, in order."""

    skipped: tuple[int, ...] = ()
    """Indices of the documents of fewer than two tokens, of those looked at."""

    truncated: tuple[int, ...] = ()
    """Indices of the documents that were cut at `max_length`."""

    update_norm: float = 0.0
    """Frobenius norm of all updates, as a share of that of the weights that they are added to."""

    drift: float | None = None
    """By how many nats per token the loss on `drift_texts` rose, where there are any."""

    ended: str | None = None
    """Why training ended before all documents were learned from, where it did."""

    seconds: float = 0.0
    """From the first step to the last, without pauses; of all prompts trained together."""

    fallback: str | None = None
    """Why the base model answers, where it does."""

    @property
    def steps(self) -> int:
        """The number of gradient steps taken."""
        return len(self.losses)


def ignore_step(step: Step) -> None:
    """Tell nobody."""
    del step


def ignore_pause(steps: int, seconds: float) -> None:
    """Do nothing."""
    del steps, seconds


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one slot is to learn."""

    documents: Sequence[TokenizedDocument]
    """Most informative first; those too short to learn from are not among them."""

    config: FineTuneConfig

    should_stop: Callable[[], bool]
    """Asked before each step; where it returns True, training ends there."""

    on_step: Callable[[Step], None] = ignore_step
    """Told of each step."""

    pauses: frozenset[int] = frozenset()
    """Numbers of steps after which `on_pause` is called."""

    on_pause: Callable[[int, float], None] = ignore_pause
    """Called with a number of steps and the seconds of training so far. The slot is then as if
    training had ended there."""

    skipped: tuple[int, ...] = ()
    """Indices of those too short."""

    unread: int = 0
    """How many documents there were beyond `max_documents`."""


class Trainer:
    """Trains the slots of one model."""

    def __init__(self, model: PreTrainedModel, slots: Slots, *, checkpointing: bool) -> None:
        """Prepare for a model whose layers hold these slots.

        Args:
            model: Its modules are this trainer's alone.
            slots: Of the model's layers.
            checkpointing: Whether activations are computed again for the backward pass.
        """
        self.slots = slots
        self.head = linear_head(model)
        self._model = model
        self._recorder = Recorder(model.device)
        self._inputs: dict[tuple[int, int], Targets] = {}
        if checkpointing:
            checkpoint_layers(model)
        # Reading a loss waits for the GPU; it is read while the next step is under way.
        self._lag = 0 if model.device.type == "cpu" else 1

    @functools.cached_property
    def batchable(self) -> bool:
        """Whether a row of a batch goes through its own slot alone, asked of the model.

        Not so where an architecture mixes the rows of a batch, as some mixtures of experts do,
        or 8-bit layers, which look for outliers in all of it.
        """
        self.reserve(2)
        if getattr(self._model, "is_loaded_in_8bit", False):
            return False
        rows = torch.tensor([[1, 2, 3], [3, 2, 1]], device=self._model.device)
        with torch.inference_mode():
            self.slots.rest()
            expected = self._model(input_ids=rows, use_cache=False).logits[1]
            self.slots.load(0, torch.ones(self.slots.size, device=self._model.device))
            try:
                self.slots.use(0, 2)
                got = self._model(input_ids=rows, use_cache=False).logits[1]
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # its inputs cannot be cut into rows at all
                return False
            finally:
                self.slots.rest()
                self.slots.reset(0)
        return torch.equal(got, expected)

    def reserve(self, count: int) -> None:
        """Have at least so many slots."""
        if self.slots.count < count:
            self.slots.reserve(count)
            self._recorder.forget()

    def renew_slots(self) -> None:
        """Replace all slots by others that nothing was ever written to."""
        count, self.slots.count = self.slots.count, 0
        self.slots.reserve(max(1, count))
        self._recorder.forget()

    @functools.cached_property
    def _base_norm(self) -> float:
        return self.slots.base_norm()

    def train(self, lessons: Sequence[Lesson]) -> list[TrainingRecord]:
        """Train slot i on lesson i, all together; leave each slot as its lesson left it.

        Returns:
            What was done. Where a loss or weights stop being finite, the slot is reset, and
            `fallback` says so: a broken adapter never answers.
        """
        began = time.perf_counter()
        self.reserve(len(lessons))
        courses = [_Course(slot, lesson) for slot, lesson in enumerate(lessons)]
        paused = 0.0
        unread: deque[tuple[list[_Course], torch.Tensor]] = deque()
        # The caller may be inside no_grad or inference_mode.
        with torch.inference_mode(mode=False), torch.enable_grad():
            for course in courses:
                if course.steps:
                    config = course.lesson.config
                    self.slots.begin(
                        course.slot, seed=config.seed, learning_rate=config.learning_rate
                    )
            while active := [course for course in courses if course.goes_on(began)]:
                unread.append(self._step(active))
                while len(unread) > self._lag:
                    _read(*unread.popleft())
                asked = time.perf_counter()
                self._pause(active, asked - began - paused)
                paused += time.perf_counter() - asked
        while unread:
            _read(*unread.popleft())
        for course in courses:
            self._finish(course)
        seconds = time.perf_counter() - began - paused
        return [course.record(seconds) for course in courses]

    def _step(self, active: list[_Course]) -> tuple[list[_Course], torch.Tensor]:
        """Take the next step of each course; return the losses, not waited for."""
        steps = {course.slot: course.take() for course in active}
        course_of = {course.slot: course for course in active}
        lengths = [0] * (1 + max(steps))
        for slot, step in steps.items():
            lengths[slot] = len(step.document.token_ids) if step.fresh else 0
        for first, last in passes(lengths, overhead=_TOKENS_PER_PASS):
            rows = [steps[slot].document.token_ids for slot in range(first, last)]
            for slot, loss in enumerate(self._gradients(first, rows), start=first):
                course_of[slot].loss = loss
        limits = tuple((c.slot, c.lesson.config.max_gradient_norm) for c in active)
        self._recorder.run(limits, functools.partial(self.slots.step, dict(limits)))
        return active, torch.stack([course.loss for course in active])

    def _gradients(self, first: int, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Write the gradients of the slots from `first` on; return their losses."""
        self.slots.use(first, first + len(rows))
        targets = self._targets(rows)

        def work() -> torch.Tensor:
            # A layer that no token reaches adds nothing: it must not find the last pass's.
            self.slots.clear_gradients(first, first + len(rows))
            losses = row_losses(self._model, self.head, targets)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            return losses.detach()

        losses = self._recorder.run((first, *targets.token_ids.shape), work)
        assert losses is not None  # noqa: S101 - what `work` returns
        return losses.clone()  # the next replay writes to the same place

    def _targets(self, rows: Sequence[Sequence[int]]) -> Targets:
        device = self._model.device
        if device.type == "cpu":
            return make_targets(rows, mean=True, device=device)
        longest = max(len(row) for row in rows)
        length = _BUCKET * math.ceil(longest / _BUCKET)
        fresh = make_targets(rows, mean=True, length=length, device=torch.device("cpu"))
        shape = (len(rows), length)
        if shape not in self._inputs:
            self._inputs[shape] = Targets(
                fresh.token_ids.to(device), fresh.weights.to(device), None
            )
        # Always the same tensors: that is where a recording reads.
        self._inputs[shape].token_ids.copy_(fresh.token_ids)
        self._inputs[shape].weights.copy_(fresh.weights)
        return self._inputs[shape]

    def _pause(self, active: Sequence[_Course], seconds: float) -> None:
        """Have slots looked at as `_finish` would leave them, and go on from where they were."""
        for course in active:
            slot, limit = course.slot, course.lesson.config.max_update
            if course.taken not in course.lesson.pauses or course.fallback is not None:
                continue
            with torch.no_grad():
                norm = self.slots.update_norm(slot) / self._base_norm
                weights = self.slots.weights[slot].clone()
                if limit is not None and norm > limit:
                    self.slots.scale_update(slot, limit / norm)
                course.lesson.on_pause(course.taken, seconds)
                self.slots.weights[slot].copy_(weights)

    def _finish(self, course: _Course) -> None:
        slot, config = course.slot, course.lesson.config
        if not course.losses or course.fallback is not None:
            self.slots.reset(slot)
            return
        course.update_norm = self.slots.update_norm(slot) / self._base_norm
        if not math.isfinite(course.update_norm) or not self.slots.is_finite(slot):
            course.fallback = "the adapter's weights were not finite after training"
            self.slots.reset(slot)
            return
        if config.max_update is not None and course.update_norm > config.max_update:
            self.slots.scale_update(slot, config.max_update / course.update_norm)
            course.update_norm = config.max_update


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Have each layer keep its inputs only, and compute the rest again for the backward pass.

    transformers' own switch works in training mode only, which switches dropout on as well.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = functools.partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True, slots=True)
class _Planned:
    document: TokenizedDocument
    fresh: bool
    """Whether the gradient is computed, or the last step's is used once more."""


def plan(documents: Sequence[TokenizedDocument], config: FineTuneConfig) -> list[_Planned]:
    """Return the steps of a lesson, in order, within the budget of tokens."""
    steps: list[_Planned] = []
    streak = 0
    tokens = 0
    for document in documents:
        for _ in range(config.steps_per_document):
            repeats = steps and steps[-1].document.token_ids == document.token_ids
            streak = streak + 1 if repeats else 0
            tokens += len(document.token_ids)
            if config.max_train_tokens is not None and tokens > config.max_train_tokens:
                return steps
            # HullFT, arXiv 2605.30337: a repeat's gradient is computed anew every r-th step.
            fresh = streak % config.gradient_reuse == 0
            steps.append(_Planned(document, fresh))
    return steps


def budget_spent(
    steps: int, documents: Sequence[TokenizedDocument], config: FineTuneConfig, unread: int
) -> str | None:
    """Return why there are no more steps than these, where they are not all.

    Args:
        steps: How many there are.
        documents: What could have been learned from.
        config: Steps on each document.
        unread: Documents beyond `max_documents`.
    """
    if steps < len(documents) * config.steps_per_document or unread:
        return "the budget of documents or tokens was spent"
    return None


@dataclass(slots=True)
class _Course:
    """One slot's lesson while it is given."""

    slot: int
    lesson: Lesson
    losses: list[float] = field(default_factory=list)
    update_norm: float = 0.0
    ended: str | None = None
    fallback: str | None = None
    steps: list[_Planned] = field(init=False)
    taken: int = 0
    loss: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float32))
    """Of the last step that computed one, perhaps not there yet."""

    def __post_init__(self) -> None:
        documents, config = self.lesson.documents, self.lesson.config
        self.steps = plan(documents, config)
        if not self.steps:
            self.fallback = "no document to learn from"
        self.ended = budget_spent(len(self.steps), documents, config, self.lesson.unread)

    def goes_on(self, began: float) -> bool:
        """Return whether there is another step to take."""
        if self.fallback is not None or self.taken == len(self.steps):
            return False
        seconds = self.lesson.config.max_train_seconds
        if seconds is not None and self.taken and time.perf_counter() - began > seconds:
            self.ended = f"{seconds} s of training were spent"
        elif self.lesson.should_stop():
            self.ended = "it was told to stop"
        else:
            return True
        del self.steps[self.taken :]
        self.fallback = None if self.taken else self.ended
        return False

    def take(self) -> _Planned:
        """Return the next step."""
        self.taken += 1
        return self.steps[self.taken - 1]

    def note(self, loss: float) -> None:
        """Note a step's loss, unless the course has ended already."""
        if self.fallback is not None:
            return
        if not math.isfinite(loss):
            self.fallback = f"the loss was not finite in step {len(self.losses) + 1}"
            return
        document = self.steps[len(self.losses)].document
        self.losses.append(loss)
        self.lesson.on_step(Step(len(self.losses), document.index, loss, len(document.token_ids)))

    def record(self, seconds: float) -> TrainingRecord:
        """Return what was done."""
        taken = self.steps[: len(self.losses)]
        return TrainingRecord(
            losses=tuple(self.losses),
            tokens=sum(len(step.document.token_ids) for step in taken),
            trained=tuple(dict.fromkeys(step.document.index for step in taken)),
            skipped=self.lesson.skipped,
            truncated=tuple(d.index for d in self.lesson.documents if d.truncated),
            update_norm=self.update_norm if self.fallback is None else 0.0,
            ended=self.ended,
            seconds=seconds if taken else 0.0,
            fallback=self.fallback,
        )


def _read(courses: list[_Course], losses: torch.Tensor) -> None:
    for course, loss in zip(courses, losses.tolist(), strict=True):
        course.note(loss)


def passes(lengths: Sequence[int], *, overhead: int) -> list[tuple[int, int]]:
    """Return how to cut a row of documents into passes, so that least is computed.

    A pass holds neighbours, and all of it is as long as its longest document; each costs
    `overhead` tokens more. A length of 0 is no document, and belongs to no pass.

    Args:
        lengths: Tokens of each slot's document.
        overhead: Tokens.

    Returns:
        First slot and the one after the last, of each pass.
    """
    # best[i]: the cheapest cost of the first i slots, and where their last pass begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for last in range(1, len(lengths) + 1):
        if lengths[last - 1] == 0:
            best.append((best[last - 1][0], last))
            continue
        choices = []
        longest = 0
        for first in range(last - 1, -1, -1):
            if lengths[first] == 0:
                break
            longest = max(longest, lengths[first])
            choices.append((best[first][0] + overhead + longest * (last - first), first))
        best.append(min(choices))
    cuts = []
    end = len(lengths)
    while end > 0:
        start = best[end][1]
        if start == end:
            end -= 1
        else:
            cuts.append((start, end))
            end = start
    return cuts[::-1]
