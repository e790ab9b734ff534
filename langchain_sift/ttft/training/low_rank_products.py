"""Multiply the inputs of frozen layers with the low-rank matrices of the slots in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

FrozenWeights = tuple[torch.Tensor, torch.Tensor | None]
"""The weights and the bias of a layer."""


@dataclass(frozen=True, slots=True)
class SlotsInUse:
    """The weights of an update in the slots in use, one row per slot, and their gradients."""

    down: torch.Tensor
    """A of all layers of the update, one above the other."""

    ups: tuple[torch.Tensor, ...]
    """B transposed, of each layer."""

    down_gradient: torch.Tensor
    up_gradients: tuple[torch.Tensor, ...]


def updated_outputs(
    inputs: torch.Tensor, slots: SlotsInUse, scale: float, frozen: Sequence[FrozenWeights]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return (alpha / r) A x of all layers, and the outputs of each."""
    rows = len(slots.down)
    low = _low(inputs.reshape(rows, -1, inputs.shape[-1]), slots.down, scale)
    outputs = []
    lows = low.chunk(len(frozen), dim=2)
    for (weight, bias), part, up in zip(frozen, lows, slots.ups, strict=True):
        output = functional.linear(inputs, weight, bias)
        of_rows = output.view(rows, -1, output.shape[-1])
        if output.dtype == up.dtype:
            of_rows.baddbmm_(part, up)
        else:
            of_rows.add_(torch.bmm(part, up))
        outputs.append(output)
    return low, tuple(outputs)


def outputs_of_one(
    inputs: torch.Tensor,
    down: torch.Tensor,
    ups: Sequence[torch.Tensor],
    scale: float,
    frozen: Sequence[FrozenWeights],
) -> tuple[torch.Tensor, ...]:
    """Return the outputs of each layer with one slot, in few calls: for a token, calls cost most.

    Args:
        inputs: x of all layers, of any shape.
        down: A of all layers, one above the other.
        ups: B transposed, of each layer.
        scale: alpha / r.
        frozen: The weights and the bias of each layer.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    low = functional.linear(rows.to(down.dtype), down)
    if scale != 1:
        low.mul_(scale)
    parts = (low,) if len(ups) == 1 else low.chunk(len(ups), dim=1)
    outputs = []
    for (weight, bias), part, up in zip(frozen, parts, ups, strict=True):
        output = functional.linear(inputs, weight, bias)
        of_rows = output.view(-1, output.shape[-1])
        if output.dtype == up.dtype:
            of_rows.addmm_(part, up)
        else:
            of_rows.add_(torch.mm(part, up))
        outputs.append(output)
    return tuple(outputs)


class Updated(torch.autograd.Function):
    """The outputs of layers that read the same inputs: `W x + scale B A x` for each row.

    The backward pass adds the gradients of A and B to the tensors that the optimizer reads, in
    float32. A row's gradient depends on this row alone.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        inputs: torch.Tensor,
        down: torch.Tensor,  # noqa: ARG004 - so that autograd records the product
        slots: SlotsInUse,
        scale: float,
        frozen: Sequence[FrozenWeights],
    ) -> tuple[torch.Tensor, ...]:
        """Return the outputs, and keep what the gradients need."""
        low, outputs = updated_outputs(inputs, slots, scale, frozen)
        ctx.save_for_backward(inputs, low)
        ctx.layer = (slots, scale, frozen)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Add the gradients of A and B, and return that of the inputs."""
        inputs, low = ctx.saved_tensors
        slots, scale, frozen = ctx.layer
        rows, width = len(low), inputs.shape[-1]
        of_outputs = [part.reshape(rows, -1, part.shape[-1]) for part in gradients]
        parts = [torch.bmm(part, up.mT) for part, up in zip(of_outputs, slots.ups, strict=True)]
        low_gradient = torch.cat(parts, dim=2).mul_(scale)
        lows = low.chunk(len(frozen), dim=2)
        for total, part, gradient in zip(slots.up_gradients, lows, of_outputs, strict=True):
            _add_product(total, part.mT, gradient)
        _add_product(slots.down_gradient, low_gradient.mT, inputs.reshape(rows, -1, width))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        of_inputs = torch.bmm(low_gradient, slots.down).view(-1, width)
        for (weight, _), gradient in zip(frozen, of_outputs, strict=True):
            of_inputs.addmm_(gradient.view(-1, gradient.shape[-1]), weight)
        return of_inputs.view(inputs.shape), None, None, None, None


class AddUpdate(torch.autograd.Function):
    """`frozen + scale B A x` for each row, with the gradients of `Updated`."""

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
        """Return the outputs, and keep what the gradients need."""
        low = _low(inputs, down, scale)
        ctx.save_for_backward(inputs, low)
        ctx.layer = (down, up, down_gradient, up_gradient, scale)
        if frozen.dtype == up.dtype:
            return torch.baddbmm(frozen, low, up)
        return frozen + torch.bmm(low, up).to(frozen.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Add the gradients of A and B, and return that of the inputs."""
        inputs, low = ctx.saved_tensors
        down, up, down_gradient, up_gradient, scale = ctx.layer
        low_gradient = torch.bmm(gradient, up.mT).mul_(scale)
        _add_product(up_gradient, low.mT, gradient)
        _add_product(down_gradient, low_gradient.mT, inputs)
        of_inputs = torch.bmm(low_gradient, down) if ctx.needs_input_grad[0] else None
        return of_inputs, gradient, None, None, None, None, None


def _low(inputs: torch.Tensor, down: torch.Tensor, scale: float) -> torch.Tensor:
    """Return (alpha / r) A x, in the dtype of A."""
    return torch.bmm(inputs.to(down.dtype), down.mT).mul_(scale)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add `left @ right` to a total, which may have a wider dtype."""
    if total.dtype == left.dtype:
        torch.baddbmm(total, left, right, out=total)
    else:
        total.add_(torch.bmm(left, right))
