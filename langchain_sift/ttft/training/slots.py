"""Keep the adapters of several prompts, with their gradients and optimizer states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from langchain_sift.ttft.training.lora import LowRankUpdate
from langchain_sift.ttft.training.low_rank_products import SlotsInUse
from langchain_sift.ttft.training.optimizer import make_optimizer


class Slots:
    """The adapters, gradients and optimizer states of several prompts, one row per slot.

    A slot at rest is all zeros, and a model whose slots are at rest is exactly the base model.
    With flat rows, reset and verification are one operation each, and an optimizer step is one
    kernel. Memory of a slot: for each weight of the adapter 4 bytes, and as many as the model's
    dtype has if that is not float32; while it trains 12 more, for the gradient and two moments.
    """

    def __init__(self, updates: list[LowRankUpdate], model: PreTrainedModel) -> None:
        """Describe the slots of a model's layers; `reserve` allocates them."""
        self._updates = updates
        self.shapes = tuple(shape for u in updates for layer in u.layers for shape in layer)
        """Shapes of A and of B transposed, for each layer."""
        self._dtype = model.dtype
        self._device = model.device
        self.size = sum(math.prod(shape) for shape in self.shapes)
        """Number of weights in one slot."""
        self._optimizer: torch.optim.AdamW | None = None
        self._in_use: dict[tuple[int, int], list[SlotsInUse]] = {}
        self.release()

    def reserve(self, count: int) -> None:
        """Allocate `count` slots in place of those there are, which must be at rest."""
        self.release()
        self._allocate(count)
        self.count = count  # only now: if memory does not suffice, no slot is half-made

    def release(self) -> None:
        """Free the memory of all slots."""
        self.count = 0
        self._start: tuple[int, torch.Tensor] | None = None
        self._allocate(0)

    def _allocate(self, count: int) -> None:
        with torch.inference_mode(mode=False):  # inference tensors can never be trained
            self.weights = torch.zeros(count, self.size, dtype=torch.float32, device=self._device)
            # The model computes in its dtype; the weights themselves are always float32.
            self._rounded = self.weights.to(self._dtype)
        self.end_training()

    @property
    def nbytes(self) -> int:
        """Number of bytes of all slots."""
        tensors = [self.weights, self._rounded, self.gradients, self._moments]
        tensors += [] if self._start is None else [self._start[1]]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def begin_training(self) -> None:
        """Allocate the gradients and optimizer states of all slots, unless they are there."""
        if self._optimizer is not None:
            return
        with torch.inference_mode(mode=False):
            self.gradients = torch.zeros_like(self.weights)
            self._moments = torch.stack([self.gradients, self.gradients])
            self._optimizer = make_optimizer(self.weights, self._moments)
        self._in_use = {}

    def end_training(self) -> None:
        """Free the gradients and optimizer states of all slots."""
        self.rest()  # the updates refer to them
        self._optimizer = None
        # In their place, zeros that occupy no memory and cannot be written to.
        with torch.inference_mode(mode=False):
            self.gradients = self.weights.new_zeros(()).expand_as(self.weights)
            self._moments = self.gradients.expand(2, *self.gradients.shape)
        self._in_use = {}

    def _parts(self, flat: torch.Tensor) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Yield views for each update: A of its layers in one, and B transposed of each layer."""
        start = 0
        for update in self._updates:
            of_a, _ = update.layers[0]
            # The A of layers that read the same inputs are neighbours, and multiply them at once.
            stacked = (*of_a[:-2], len(update.layers) * of_a[-2], of_a[-1])
            parts = []
            for shape in (stacked, *(of_b for _, of_b in update.layers)):
                end = start + math.prod(shape)
                parts.append(flat[:, start:end].unflatten(1, shape))  # type: ignore[no-untyped-call]
                start = end
            yield parts[0], parts[1:]

    def _matrices(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield views of A and of B transposed for each layer, shape (slots, ...)."""
        for down, ups in self._parts(flat):
            for pair in zip(down.chunk(len(ups), dim=-2), ups, strict=True):
                yield from pair

    def begin(self, slot: int, *, seed: int, learning_rate: float) -> None:
        """Set the initial weights and the learning rate of a slot at rest."""
        self.begin_training()
        self.load(slot, self._initial(seed))
        self.set_learning_rate(slot, torch.tensor(learning_rate, dtype=torch.float64))

    def set_learning_rate(self, slot: int, rate: torch.Tensor) -> None:
        """Set the learning rate of a slot that trains, without waiting for an accelerator."""
        group = self._group(slot)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = float(rate)

    def learning_rate(self, slot: int) -> float:
        """Return the learning rate of a slot that trains."""
        return float(self._group(slot)["lr"])

    def _group(self, slot: int) -> dict[str, Any]:
        """Return the optimizer's settings of a slot that trains, and in "params" its weights."""
        assert self._optimizer is not None  # noqa: S101 - `begin` has made it
        return self._optimizer.param_groups[slot]

    def _initial(self, seed: int) -> torch.Tensor:
        """Return the initial weights, shape (size,): A random and B = 0 (LoRA, section 4.1).

        A is Kaiming uniform (arXiv 1502.01852) with a = sqrt(5), as in PEFT.
        """
        # The prompts of a batch usually have the same seed.
        if self._start is not None and self._start[0] == seed:
            return self._start[1]
        # A private generator: all threads of a process share torch's global one.
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for of_a, of_b in zip(self.shapes[::2], self.shapes[1::2], strict=True):
            bound = 1.0 / math.sqrt(of_a[-1])
            # Not the default dtype of the process: a thread that loads a model may change it.
            down = torch.empty(math.prod(of_a), dtype=torch.float32)
            parts.append(down.uniform_(-bound, bound, generator=generator))
            parts.append(torch.zeros(math.prod(of_b), dtype=torch.float32))
        self._start = seed, torch.cat(parts).to(self._device)
        return self._start[1]

    def load(self, slot: int, weights: torch.Tensor) -> None:
        """Copy weights into a slot: A and B transposed of each layer, together of shape (size,)."""
        parts = torch.split(weights.detach(), [math.prod(shape) for shape in self.shapes])
        for ours, part in zip(self._matrices(self.weights[slot : slot + 1]), parts, strict=True):
            ours.copy_(part.view(ours.shape))
        self._round(slot)

    def read(self, slot: int) -> torch.Tensor:
        """Return a copy of a slot's weights, in the form that `load` takes."""
        row = self.weights[slot : slot + 1]
        return torch.cat([part.flatten() for part in self._matrices(row)])

    def _round(self, slot: int) -> None:
        if self._rounded is not self.weights:
            self._rounded[slot].copy_(self.weights[slot])

    def use(self, first: int, last: int) -> None:
        """Route the rows of a batch through the slots `first`, ..., `last - 1`, in this order.

        Rows beyond the last slot have no adapter.
        """
        if first >= self.count:
            self.rest()
            return
        views = self._in_use.get((first, last))
        if views is None:
            views = self._views(first, last)
        if last <= self.count:
            self._in_use[first, last] = views
        for update, views_of_update in zip(self._updates, views, strict=True):
            update.use(views_of_update)

    def use_probe(self, values: Sequence[float]) -> None:
        """Route each row of a batch through an adapter whose weights are all one of these values.

        These adapters occupy no memory, and have no gradients.
        """
        with torch.inference_mode(mode=False), torch.enable_grad():
            rows = torch.tensor(values, dtype=self._dtype, device=self._device)
            rows.requires_grad_()
            for update in self._updates:
                (of_a, _), count = update.layers[0], len(update.layers)
                shapes = [(*of_a[:-2], count * of_a[-2], of_a[-1]), *(b for _, b in update.layers)]
                down, *ups = (
                    rows.view(-1, *[1] * len(shape)).expand(-1, *shape) for shape in shapes
                )
                update.use(SlotsInUse(down, tuple(ups), down, tuple(ups)))

    def use_rows(self, slots: Sequence[int], *, one_token: bool = False) -> None:
        """Route row i of a batch through the i-th of these slots, for passes without gradient.

        For `one_token` of each row, a CPU is faster with adapters in float32 than in bfloat16.
        """
        slots = slots[:1] if len(set(slots)) == 1 else slots  # one takes any number of rows
        first, end = slots[0], slots[0] + len(slots)
        is_run = list(slots) == list(range(first, end))
        weights = self.weights if one_token and self._device.type == "cpu" else self._rounded
        if is_run and (first >= self.count or weights is self._rounded):
            self.use(first, end)
            return
        if is_run and end <= self.count:
            chosen = weights[first:end]
        else:
            none = weights.new_zeros(self.size)  # in a batch, some prompts may have no adapter
            chosen = torch.stack([weights[s] if s < self.count else none for s in slots])
        for update, (down, ups) in zip(self._updates, self._parts(chosen), strict=True):
            update.use(SlotsInUse(down, tuple(ups), down, tuple(ups)))

    def _views(self, first: int, last: int) -> list[SlotsInUse]:
        with torch.inference_mode(mode=False), torch.no_grad():
            rounded, gradient = self._rounded[first:last], self.gradients[first:last]
            if last > self.count:  # in a batch, some prompts may have no adapter
                none = rounded.new_zeros(last - self.count, self.size)
                rounded = torch.cat([rounded, none])
                gradient = self.weights.new_zeros(()).expand(rounded.shape)
            pairs = zip(self._parts(rounded), self._parts(gradient), strict=True)
            # Autograd must record the product; its backward pass writes the gradients.
            return [
                SlotsInUse(down.detach().requires_grad_(), tuple(ups), of_down, tuple(of_ups))
                for (down, ups), (of_down, of_ups) in pairs
            ]

    def rest(self) -> None:
        """Use no slot: the model is the base model."""
        for update in self._updates:
            update.use(None)

    def clear_gradients(self, first: int, last: int) -> None:
        """Set the gradients of the slots `first`, ..., `last - 1` to zero; a pass adds to them."""
        self.gradients[first:last].zero_()

    def step(self, max_norms: Mapping[int, float | None]) -> None:
        """Take one AdamW step in each of these slots, with their current gradients.

        Args:
            max_norms: The norm that each slot's gradient is scaled down to. None means no limit.
        """
        for slot, max_norm in max_norms.items():
            if max_norm is not None:
                gradient = self.gradients[slot]
                # Unlike clip_grad_norm_, leave a gradient within the limit exactly as it is.
                scale = (max_norm / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
                gradient.mul_(scale)
        for slot in range(self.count):
            row = self._group(slot)["params"][0]
            row.grad = self.gradients[slot] if slot in max_norms else None
        if self._optimizer is not None:
            self._optimizer.step()
        for slot in max_norms:
            self._round(slot)

    def reset(self, slot: int) -> None:
        """Bring a slot to rest: zero weights, gradients and optimizer state."""
        self.weights[slot].zero_()
        self._round(slot)
        if self._optimizer is not None:
            self.gradients[slot].zero_()
            self._moments[:, slot].zero_()
            self._steps(slot).zero_()

    def _steps(self, slot: int) -> torch.Tensor:
        """Return the optimizer's number of steps, a scalar."""
        assert self._optimizer is not None  # noqa: S101 - only while slots train
        steps: torch.Tensor = self._optimizer.state[self._group(slot)["params"][0]]["step"]
        return steps

    def is_at_rest(self, slot: int) -> bool:
        """Return whether nothing of the slot's last request is left, bit for bit."""
        rows = [self.weights[slot], self._rounded[slot]]
        if self._optimizer is not None:
            rows += [self.gradients[slot], *self._moments[:, slot], self._steps(slot)]
        # As bytes: a negative zero counts, and a CPU is several times as fast.
        return not any(bool(row.flatten().view(torch.uint8).any()) for row in rows)

    def update_norm(self, slot: int) -> float:
        """Return the Frobenius norm of all the slot's updates (alpha / r) B A together.

        From |B A|^2 = <B^T B, A A^T>: products of shape r x r, never out x in.
        """
        total = self.weights.new_zeros(())
        for update, (down, ups) in zip(self._updates, self._parts(self.weights), strict=True):
            for a, b in zip(down[slot].chunk(len(ups), dim=-2), ups, strict=True):
                gram = torch.sum((b[slot] @ b[slot].mT) * (a @ a.mT))
                total += update.scale**2 * gram
        return math.sqrt(max(0.0, float(total))) if math.isfinite(float(total)) else math.inf

    def scale_update(self, slot: int, factor: float) -> None:
        """Multiply the slot's updates by a factor."""
        for _, ups in self._parts(self.weights):
            for up in ups:
                up[slot].mul_(factor)
        self._round(slot)
