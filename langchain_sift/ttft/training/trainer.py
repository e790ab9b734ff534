"""Fine-tune the slots of one model: one gradient step per document, most informative first.

The training of arXiv 2410.08020, section 6 (after Hardt & Sun, arXiv 2305.18466), with LoRA
adapters in place of all weights, as the paper does for its larger models. Several prompts train
together: row i of a batch is the next document of the prompt in slot i, with its own loss,
gradient, clipping and optimizer state. The result of one prompt does not depend on the others.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from langchain_sift.ttft.memory.use import is_out_of_memory
from langchain_sift.ttft.model.positions import encoding_switch
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.adapted_model import base_norm
from langchain_sift.ttft.training.cuda_graphs import Recorder
from langchain_sift.ttft.training.experts import LowRankExperts
from langchain_sift.ttft.training.learning_rate import first_learning_rate
from langchain_sift.ttft.training.loss import backward
from langchain_sift.ttft.training.output_layer import linear_head
from langchain_sift.ttft.training.passes import split_into_passes
from langchain_sift.ttft.training.slots import Slots
from langchain_sift.ttft.training.targets import Targets, make_targets
from langchain_sift.ttft.training.tasks import TrainingRecord, TrainingTask, record_losses

# Cost of one more pass over the model, as a number of padding tokens.
_TOKENS_PER_PASS = 64

# For recordings, documents are padded to a multiple of this, so that there are few lengths.
_BUCKET = 64


class Trainer:
    """Trains the slots of one model."""

    def __init__(self, model: PreTrainedModel, slots: Slots, *, checkpointing: bool) -> None:
        """Prepare for a model whose layers have these slots.

        Args:
            model: Modules that nothing else uses.
            slots: The slots of the model's layers.
            checkpointing: If True, activations are recomputed in the backward pass.
        """
        self.slots = slots
        self.head = linear_head(model)
        self._model = model
        self._switch = encoding_switch(model)
        # The launches of a mixture of experts depend on the tokens, and cannot be recorded.
        has_experts = any(isinstance(module, LowRankExperts) for module in model.modules())
        records = model.device.type == "cuda" and not has_experts
        self._recorder = Recorder() if records else None
        self._inputs: dict[tuple[int, int], Targets] = {}
        if checkpointing:
            checkpoint_layers(model)
        # Reading a loss waits for the device: read it while the next step is under way.
        self._lag = 0 if model.device.type == "cpu" else 1

    @functools.cached_property
    def batchable(self) -> bool:
        """If True, each row of a batch goes through its slot alone.

        False for an architecture that mixes the rows of a batch, as some mixtures of experts do,
        and for 8-bit layers, which look for outliers in the whole batch.
        """
        if getattr(self._model, "is_loaded_in_8bit", False):
            return False
        rows = torch.tensor([[1, 2, 3], [3, 2, 1]], device=self._model.device)
        with torch.inference_mode():
            self.slots.rest()
            expected = self._model(input_ids=rows, use_cache=False).logits[1]
            try:
                self.slots.use_probe([1.0, 0.0])
                logits = self._model(input_ids=rows, use_cache=False).logits[1]
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                return False  # the inputs of a layer cannot be split into rows
            finally:
                self.slots.rest()
        # Experts compute with the tokens of one row at a time, with another rounding.
        tolerance = torch.finfo(logits.dtype).eps ** 0.5 * float(expected.abs().max())
        return torch.allclose(logits, expected, rtol=0.0, atol=tolerance)

    def reserve(self, count: int) -> None:
        """Allocate slots if there are fewer than `count`, or far more.

        On an accelerator, recordings write to the slots: more of them stay.
        """
        far_more = self._recorder is None and self.slots.count > 2 * count > 0
        if self.slots.count < count or far_more:
            self.release_slots()
            self.slots.reserve(count)

    def release_slots(self) -> None:
        """Free all slots; the next training allocates others."""
        self.slots.release()
        self._forget_recordings()

    def release_idle_slots(self) -> None:
        """Free all slots unless there are recordings, which are worth more than their memory."""
        if self._recorder is None:
            self.release_slots()

    def _forget_recordings(self) -> None:
        if self._recorder is not None:
            self._recorder.forget()

    @functools.cached_property
    def _base_norm(self) -> float:
        return base_norm(self._model)

    def train(self, tasks: Sequence[TrainingTask]) -> list[TrainingRecord]:
        """Train slot i on task i, all together, and leave the slots trained.

        Args:
            tasks: One per prompt. `reserve` has allocated a slot for each that has steps to take.

        Returns:
            One record per task. If a loss or weights are not finite, the slot is reset and
            `fallback` has the reason: a broken adapter never answers.
        """
        try:
            return self._train(tasks)
        finally:
            if self._recorder is None:  # recordings write to these tensors
                self.slots.end_training()

    def _train(self, tasks: Sequence[TrainingTask]) -> list[TrainingRecord]:
        began = time.perf_counter()
        pauses = 0.0
        unread: deque[tuple[list[TrainingTask], torch.Tensor]] = deque()
        started = [task for task in tasks if task.fallback is None]
        # The caller may be inside no_grad or inference_mode.
        with torch.inference_mode(mode=False), torch.enable_grad():
            self._begin(tasks)
            while active := [task for task in started if task.advance(began)]:
                unread.append((active, self._step(active)))
                if len(unread) > self._lag:
                    record_losses(*unread.popleft())
                if any(task.taken in task.milestones for task in active):
                    paused = time.perf_counter()
                    self._reach_milestones(active, paused - began - pauses)
                    pauses += time.perf_counter() - paused
        while unread:
            record_losses(*unread.popleft())
        for task in started:
            self._finish(task)
        seconds = time.perf_counter() - began - pauses
        return [task.record(seconds) for task in tasks]

    def _begin(self, tasks: Sequence[TrainingTask]) -> None:
        for slot, task in enumerate(tasks):
            task.slot = slot
            if task.fallback is None:
                config = task.config
                self.slots.begin(slot, seed=config.seed, learning_rate=config.learning_rate or 0.0)
                if task.start is not None:
                    self.slots.load(slot, task.start)

    def _step(self, active: Sequence[TrainingTask]) -> torch.Tensor:
        """Take one step of each task; return their losses without waiting for the device."""
        task_of = {task.slot: task for task in active}
        lengths = [0] * (1 + max(task_of))
        for task in active:
            lengths[task.slot] = len(task.document.token_ids) if task.is_fresh else 0
        passes = split_into_passes(lengths, overhead=_TOKENS_PER_PASS, switch=self._switch)
        for first, last in passes:
            documents = [task_of[slot].document for slot in range(first, last)]
            for slot, loss in enumerate(self._gradients(first, documents), start=first):
                task_of[slot].loss = loss
        for task in active:
            if task.taken == 1 and task.config.learning_rate is None:
                rate = first_learning_rate(self.slots.gradients[task.slot], task.loss)
                self.slots.set_learning_rate(task.slot, rate)
        norms = {task.slot: task.config.max_gradient_norm for task in active}
        if self._recorder is None:
            self.slots.step(norms)
        else:
            self._recorder.run(tuple(norms.items()), lambda: self.slots.step(norms))
        return torch.stack([task.loss for task in active])

    def _gradients(self, first: int, documents: Sequence[TokenizedDocument]) -> torch.Tensor:
        """Compute the gradients of the slots from `first` on, one per row; return their losses."""
        self.slots.use(first, first + len(documents))
        # A layer that no token reaches adds nothing: remove the last pass's gradients.
        self.slots.clear_gradients(first, first + len(documents))
        # The positions of a teacher differ from batch to batch, and cannot be recorded.
        if self._recorder is None or any(document.teacher for document in documents):
            targets = _targets(documents, self._model.device)
            return backward(self._model, self.head, targets)
        targets = self._recorded_targets(documents)
        losses = self._recorder.run(
            (first, *targets.token_ids.shape), lambda: backward(self._model, self.head, targets)
        )
        assert losses is not None  # noqa: S101 - `backward` returns them
        return losses.clone()  # the next replay writes to the same memory

    def _recorded_targets(self, documents: Sequence[TokenizedDocument]) -> Targets:
        """Copy the documents into the tensors that the recording of their shape reads."""
        longest = max(len(document.token_ids) for document in documents)
        length = _BUCKET * math.ceil(longest / _BUCKET)
        if longest <= self._switch < length:
            length = int(self._switch)
        targets = _targets(documents, torch.device("cpu"), length)
        shape = (len(documents), length)
        if shape not in self._inputs:
            device = self._model.device
            self._inputs[shape] = Targets(
                targets.token_ids.to(device), targets.weights.to(device), None
            )
        self._inputs[shape].token_ids.copy_(targets.token_ids)
        self._inputs[shape].weights.copy_(targets.weights)
        return self._inputs[shape]

    def _reach_milestones(self, active: Sequence[TrainingTask], seconds: float) -> None:
        """Call the milestones of this step with each slot as `_finish` would leave it."""
        for task in active:
            milestone = task.milestones.get(task.taken)
            if milestone is None or task.fallback is not None:
                continue
            with torch.no_grad():
                weights = self.slots.read(task.slot)
                self._limit_update(task)
                milestone(seconds)
                self.slots.load(task.slot, weights)

    def _finish(self, task: TrainingTask) -> None:
        if not task.losses or task.fallback is not None:
            self.slots.reset(task.slot)
            return
        task.learning_rate = self.slots.learning_rate(task.slot)
        norm = self._limit_update(task)
        if not math.isfinite(norm):  # if and only if all weights are
            task.fallback = "the adapter's weights were not finite after training"
            self.slots.reset(task.slot)

    def _limit_update(self, task: TrainingTask) -> float:
        """Scale a slot's update down to `max_update`; return its norm before."""
        limit = task.config.max_update
        task.update_norm = norm = self.slots.update_norm(task.slot) / self._base_norm
        if limit is not None and norm > limit:
            self.slots.scale_update(task.slot, limit / norm)
            task.update_norm = limit
        return norm


def _targets(
    documents: Sequence[TokenizedDocument], device: torch.device, length: int | None = None
) -> Targets:
    return make_targets(
        [document.token_ids for document in documents],
        counted=[document.counted for document in documents],
        teachers=[document.teacher for document in documents],
        mean=True,
        length=length,
        device=device,
    )


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make each layer store its inputs only, and recompute the rest in the backward pass.

    transformers' switch works in training mode only, which also turns dropout on.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = functools.partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(functools.partial(forward, **kwargs), *args, use_reentrant=False)
