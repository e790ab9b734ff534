"""Apply the low-rank adapters of several prompts to one frozen model (LoRA, arXiv 2106.09685).

    h_i = W x_i + (alpha / r) B_i A_i x_i     W frozen and shared, A_i: r x in, B_i: out x r

Row i of a batch goes through the adapter of slot i: one product with W for the whole batch, and
one batched product with all A_i and all B_i. No row can reach the adapter of another, because
no module has a current adapter that could be switched. The layers of a mixture of experts are in
`experts`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from langchain_sift.errors import ArgumentError

MIXED_ROWS = "this architecture mixes the rows of a batch: run its prompts one by one"


class LowRankUpdate:
    """The updates B A that the slots in use add to one frozen matrix, or to one per expert."""

    def __init__(
        self, features: tuple[int, int], rank: int, scale: float, *, experts: int | None = None
    ) -> None:
        """Describe an update.

        Args:
            features: Number of input and of output features.
            rank: r.
            scale: alpha / r.
            experts: Number of matrices, each with its own A and B. None means a single one.
        """
        inputs, outputs = features
        stack = () if experts is None else (experts,)
        # B is stored transposed: its gradient, a product of rows, is then several times as fast.
        self.shapes = ((*stack, rank, inputs), (*stack, rank, outputs))
        self.scale = scale
        self.slots: tuple[torch.Tensor, ...] | None = None
        """A and B transposed of the slots in use, and their gradients. None means no slot."""

    def add(self, inputs: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
        """Return W x, plus (alpha / r) B A x of the slots in use (LoRA, eq. 3)."""
        if self.slots is None:
            return frozen
        # With one slot, inputs of any shape are one row: a batch of texts through one adapter.
        rows = len(self.slots[0])
        if rows > 1 and len(inputs) != rows:
            raise RuntimeError(MIXED_ROWS)
        updated: torch.Tensor = _AddUpdate.apply(  # type: ignore[no-untyped-call]
            inputs.reshape(rows, -1, inputs.shape[-1]),
            frozen.reshape(rows, -1, frozen.shape[-1]),
            *self.slots,
            self.scale,
        )
        return updated.view(frozen.shape)

    def add_of(
        self, slot: int, expert: int, inputs: torch.Tensor, frozen: torch.Tensor
    ) -> torch.Tensor:
        """Return the same for the tokens, shape (n, inputs), that one slot sends to an expert."""
        if self.slots is None:
            return frozen
        parts = [part[slot : slot + 1, expert] for part in self.slots]
        updated: torch.Tensor = _AddUpdate.apply(  # type: ignore[no-untyped-call]
            inputs[None], frozen[None], *parts, self.scale
        )
        return updated[0]


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
        self.base = base
        self.update = LowRankUpdate(features, rank, scale)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return W x with the update."""
        return self.update.add(inputs, self.base(inputs))

    @property
    def weight(self) -> torch.Tensor:
        """Raise an `ArgumentError`: weights read without calling the layer have no adapter."""
        raise ArgumentError(
            "this architecture reads the weights of an adapted layer instead of calling it: set "
            "target_modules to layers that are called, such as those of its attention"
        )


class _AddUpdate(torch.autograd.Function):
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
