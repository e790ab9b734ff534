"""Apply the low-rank adapters of several prompts to one frozen model (LoRA, arXiv 2106.09685).

    h_i = W x_i + (alpha / r) B_i A_i x_i     W frozen and shared, A_i: r x in, B_i: out x r

Row i of a batch goes through the adapter of slot i: one product with W for the whole batch, and
one batched product with all A_i and all B_i. No row can reach the adapter of another, because
no module has a current adapter that could be switched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from langchain_sift.errors import ArgumentError


class LowRankLinear(nn.Module):
    """A frozen linear layer plus the low-rank updates of the slots in use."""

    def __init__(self, base: nn.Module, features: tuple[int, int], rank: int, scale: float) -> None:
        """Wrap a layer.

        Args:
            base: An `nn.Linear`, a quantized subclass of it, or GPT-2's `Conv1D`.
            features: Number of input and of output features.
            rank: r.
            scale: alpha / r.
        """
        super().__init__()
        inputs, outputs = features
        self.base = base
        self.scale = scale
        # B is stored transposed: its gradient, a product of rows, is then several times as fast.
        self.shapes = ((rank, inputs), (rank, outputs))
        self.slots: tuple[torch.Tensor, ...] | None = None
        """A and B transposed of the slots in use, and their gradients. None means no slot."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return W x, plus (alpha / r) B A x of the slots in use (LoRA, eq. 3)."""
        frozen: torch.Tensor = self.base(inputs)
        if self.slots is None:
            return frozen
        # With one slot, inputs of any shape are one row: a batch of texts through one adapter.
        rows = len(self.slots[0])
        if rows > 1 and len(inputs) != rows:
            raise RuntimeError(
                "this architecture mixes the rows of a batch: run its prompts one by one"
            )
        updated: torch.Tensor = _LowRankUpdate.apply(  # type: ignore[no-untyped-call]
            inputs.reshape(rows, -1, inputs.shape[-1]),
            frozen.reshape(rows, -1, frozen.shape[-1]),
            *self.slots,
            self.scale,
        )
        return updated.view(frozen.shape)

    @property
    def weight(self) -> torch.Tensor:
        """Raise an `ArgumentError`: weights read without calling the layer have no adapter."""
        raise ArgumentError(
            "this architecture reads the weights of an adapted layer instead of calling it: set "
            "target_modules to layers that are called, such as those of its attention"
        )


class _LowRankUpdate(torch.autograd.Function):
    """`frozen + scale B A x` for each row.

    The backward pass adds the gradients of A and B to the tensors that the optimizer reads, in
    float32. A row's gradient depends on this row alone.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        inputs: torch.Tensor,
        frozen: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        down_gradient: torch.Tensor,
        up_gradient: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        low = torch.bmm(inputs, down.mT).mul_(scale)  # (alpha / r) A x
        ctx.save_for_backward(inputs, low)
        ctx.layer = (down, up, down_gradient, up_gradient, scale)
        return torch.baddbmm(frozen, low, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, low = ctx.saved_tensors
        down, up, down_gradient, up_gradient, scale = ctx.layer
        low_gradient = torch.bmm(gradient, up.mT).mul_(scale)
        _add_product(up_gradient, low.mT, gradient)
        _add_product(down_gradient, low_gradient.mT, inputs)
        of_inputs = torch.bmm(low_gradient, down) if ctx.needs_input_grad[0] else None
        return of_inputs, gradient, None, None, None, None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add `left @ right` to a total, which may have a wider dtype."""
    if total.dtype == left.dtype:
        torch.baddbmm(total, left, right, out=total)
    else:
        total.add_(torch.bmm(left, right))


class Slots:
    """The adapters, gradients and optimizer states of several prompts, one row per slot.

    A slot at rest is all zeros, and a model whose slots are at rest is exactly the base model.
    With flat rows, reset and verification are one operation each, and an optimizer step is one
    kernel.
    """

    def __init__(self, layers: list[LowRankLinear], model: PreTrainedModel) -> None:
        """Allocate one slot for the layers of a model."""
        self._layers = layers
        self.shapes = tuple(shape for layer in layers for shape in layer.shapes)
        """Shapes of A and of B transposed, for each layer."""
        self._dtype = model.dtype
        self._device = model.device
        self.size = sum(math.prod(shape) for shape in self.shapes)
        """Number of weights in one slot."""
        self.count = 0
        self.reserve(1)

    def reserve(self, count: int) -> None:
        """Allocate new slots if there are fewer than `count`; those in use must be at rest."""
        if count <= self.count:
            return
        self.count = 0  # if memory does not suffice, no slot is half-made
        shape = (count, self.size)
        with torch.inference_mode(mode=False):  # inference tensors can never be trained
            self.weights = torch.zeros(shape, dtype=torch.float32, device=self._device)
            self.gradients = torch.zeros_like(self.weights)
            # The model computes in its dtype; the weights themselves are always float32.
            self._rounded = self.weights.to(self._dtype)
            self._moments = torch.stack([self.gradients, self.gradients])
            self._optimizer = self._make_optimizer()
        self._in_use: dict[tuple[int, int], list[tuple[torch.Tensor, ...]]] = {}
        self.count = count

    def _matrices(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield views of A and of B transposed for each layer, shape (slots, ...)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        for part, shape in zip(torch.split(flat, sizes, dim=1), self.shapes, strict=True):
            yield part.unflatten(1, shape)  # type: ignore[no-untyped-call]

    def _make_optimizer(self) -> torch.optim.AdamW:
        """Make an AdamW (arXiv 1711.05101, algorithm 2) whose states are rows of tensors."""
        on_cpu = self._device.type == "cpu"
        rows = [nn.Parameter(row) for row in self.weights]
        # Each request has its learning rate; a recorded step reads it from a tensor.
        rates: list[Any] = [0.0 if on_cpu else self.weights.new_zeros(()) for _ in rows]
        optimizer = torch.optim.AdamW(
            [{"params": [row], "lr": rate} for row, rate in zip(rows, rates, strict=True)],
            eps=1e-8,
            weight_decay=0.0,
            fused=True,
            capturable=not on_cpu,
        )
        for slot, row in enumerate(rows):
            optimizer.state[row] = {
                "step": self.weights.new_zeros(()),
                "exp_avg": self._moments[0, slot],
                "exp_avg_sq": self._moments[1, slot],
            }
        return optimizer

    def begin(self, slot: int, *, seed: int, learning_rate: float) -> None:
        """Set the initial weights and the learning rate of a slot at rest."""
        self.load(slot, self._initial(seed))
        group = self._optimizer.param_groups[slot]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives and dies with the engine's one adapter
    def _initial(self, seed: int) -> torch.Tensor:
        """Return the initial weights, shape (size,): A random and B = 0 (LoRA, section 4.1).

        A is Kaiming uniform (arXiv 1502.01852) with a = sqrt(5), as in PEFT.
        """
        # A private generator: all threads of a process share torch's global one.
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for layer in self._layers:
            (rank, inputs), (_, outputs) = layer.shapes
            bound = 1.0 / math.sqrt(inputs)
            # Not the default dtype of the process: a thread that loads a model may change it.
            down = torch.empty(rank * inputs, dtype=torch.float32)
            parts.append(down.uniform_(-bound, bound, generator=generator))
            parts.append(torch.zeros(outputs * rank, dtype=torch.float32))
        return torch.cat(parts).to(self._device)

    def load(self, slot: int, weights: torch.Tensor) -> None:
        """Copy weights, shape (size,), into a slot."""
        self.weights[slot].copy_(weights)
        self._round(slot)

    def _round(self, slot: int) -> None:
        if self._rounded is not self.weights:
            self._rounded[slot].copy_(self.weights[slot])

    def use(self, first: int, last: int) -> None:
        """Route the rows of a batch through the slots `first`, ..., `last - 1`, in this order."""
        if (first, last) not in self._in_use:
            self._in_use[first, last] = self._layer_views(first, last)
        for layer, views in zip(self._layers, self._in_use[first, last], strict=True):
            layer.slots = views

    def _layer_views(self, first: int, last: int) -> list[tuple[torch.Tensor, ...]]:
        with torch.inference_mode(mode=False), torch.no_grad():
            weights = self._matrices(self._rounded[first:last])
            gradients = self._matrices(self.gradients[first:last])
            # Autograd must record the product; its gradients are written by `LowRankLinear`.
            pairs = zip(weights, weights, gradients, gradients, strict=True)
            return [
                (down.detach().requires_grad_(), up.detach().requires_grad_(), *gradient_pair)
                for down, up, *gradient_pair in pairs
            ]

    def rest(self) -> None:
        """Use no slot: the model is the base model."""
        for layer in self._layers:
            layer.slots = None

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
        for slot, group in enumerate(self._optimizer.param_groups):
            group["params"][0].grad = self.gradients[slot] if slot in max_norms else None
        self._optimizer.step()
        for slot in max_norms:
            self._round(slot)

    def reset(self, slot: int) -> None:
        """Bring a slot to rest: zero weights, gradients and optimizer state."""
        self.weights[slot].zero_()
        self.gradients[slot].zero_()
        self._moments[:, slot].zero_()
        self._round(slot)
        (row,) = self._optimizer.param_groups[slot]["params"]
        self._optimizer.state[row]["step"].zero_()

    def is_at_rest(self, slot: int) -> bool:
        """Return whether nothing of the slot's last request is left, bit for bit."""
        (row,) = self._optimizer.param_groups[slot]["params"]
        rows = (self.weights[slot], self._rounded[slot], self.gradients[slot])
        is_zero = not any(bool(part.any()) for part in (*rows, *self._moments[:, slot]))
        return is_zero and not self._optimizer.state[row]["step"]

    def update_norm(self, slot: int) -> float:
        """Return the Frobenius norm of all the slot's updates (alpha / r) B A together.

        From |B A|^2 = <B^T B, A A^T>: products of shape r x r, never out x in.
        """
        total = self.weights.new_zeros(())
        pairs = self._matrices(self.weights)
        for layer, down, up in zip(self._layers, pairs, pairs, strict=True):
            gram = torch.sum((up[slot] @ up[slot].mT) * (down[slot] @ down[slot].mT))
            total += layer.scale**2 * gram
        return math.sqrt(max(0.0, float(total))) if math.isfinite(float(total)) else math.inf

    def scale_update(self, slot: int, factor: float) -> None:
        """Multiply the slot's updates by a factor."""
        for up in list(self._matrices(self.weights))[1::2]:
            up[slot].mul_(factor)
        self._round(slot)
