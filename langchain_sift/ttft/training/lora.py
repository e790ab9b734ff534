"""Apply the low-rank adapters of several prompts to one frozen model (LoRA, arXiv 2106.09685).

    h_i = W x_i + (alpha / r) B_i A_i x_i     W frozen and shared, A_i: r x in, B_i: out x r

Row i of a batch goes through the adapter of slot i: one product with W for the whole batch, and
one batched product with all A_i and all B_i. No row can reach the adapter of another, because
no module has a current adapter that could be switched. The layers of a mixture of experts are in
`experts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from langchain_sift.errors import ArgumentError

MIXED_ROWS = "this architecture mixes the rows of a batch: run its prompts one by one"


@dataclass(frozen=True, slots=True)
class SlotsInUse:
    """The weights of an update in the slots in use, one row per slot, and their gradients."""

    down: torch.Tensor
    """A of all layers of the update, one above the other."""

    ups: tuple[torch.Tensor, ...]
    """B transposed, of each layer."""

    down_gradient: torch.Tensor
    up_gradients: tuple[torch.Tensor, ...]


class LowRankUpdate:
    """The updates B A that the slots in use add to frozen matrices.

    The matrices are that of one layer, those of layers that read the same inputs, or the experts of
    a layer.
    """

    def __init__(
        self,
        inputs: int,
        outputs: Sequence[int],
        rank: int,
        scale: float,
        *,
        experts: int | None = None,
    ) -> None:
        """Describe an update.

        Args:
            inputs: Number of input features.
            outputs: Number of output features of each layer.
            rank: r.
            scale: alpha / r.
            experts: Number of matrices of a layer, each with its own A and B. None means one.
        """
        stack = () if experts is None else (experts,)
        # B is stored transposed: its gradient, a product of rows, is then several times as fast.
        self.layers = tuple(((*stack, rank, inputs), (*stack, rank, size)) for size in outputs)
        """Shapes of A and of B transposed, for each layer."""
        self.scale = scale
        self.slots: SlotsInUse | None = None
        """The slots in use. None means no slot."""
        self._inputs: torch.Tensor | None = None
        self._outputs: list[torch.Tensor | None] = []

    def use(self, slots: SlotsInUse | None) -> None:
        """Set the slots in use, and forget what was computed with others."""
        self.slots = slots
        self._inputs, self._outputs = None, []

    def output(self, number: int, inputs: torch.Tensor, bases: Sequence[nn.Module]) -> torch.Tensor:
        """Return W x + (alpha / r) B A x of a layer, with the slots in use (LoRA, eq. 3).

        The first of the layers that is called computes the outputs of all of them.

        Args:
            number: Index of the layer among those of the update.
            inputs: x of all layers.
            bases: The frozen layers.
        """
        if inputs is not self._inputs or self._outputs[number] is None:
            self._inputs, self._outputs = inputs, list(self._compute(inputs, bases))
        output, self._outputs[number] = self._outputs[number], None
        if not any(left is not None for left in self._outputs):
            self._inputs = None
        assert output is not None  # noqa: S101 - as just computed
        return output

    def _compute(
        self, inputs: torch.Tensor, bases: Sequence[nn.Module]
    ) -> tuple[torch.Tensor, ...]:
        slots = self.slots
        assert slots is not None  # noqa: S101 - as callers check
        # With one slot, inputs of any shape are one row: a batch of texts through one adapter.
        rows = len(slots.down)
        if rows > 1 and len(inputs) != rows:
            raise RuntimeError(MIXED_ROWS)
        if all(map(is_plain, bases)):
            layers: Any = bases
            if not torch.is_grad_enabled():
                return _forward(inputs, slots, self.scale, layers)[1]
            updated: Any = _Updated.apply(inputs, slots.down, slots, self.scale, layers)  # type: ignore[no-untyped-call]
            return tuple(updated)
        (base,) = bases
        frozen = base(inputs)
        added: torch.Tensor = _AddUpdate.apply(  # type: ignore[no-untyped-call]
            inputs.reshape(rows, -1, inputs.shape[-1]),
            frozen.reshape(rows, -1, frozen.shape[-1]),
            *(slots.down, slots.ups[0], slots.down_gradient, slots.up_gradients[0]),
            self.scale,
        )
        return (added.view(frozen.shape),)

    def add_of(
        self, slot: int, expert: int, inputs: torch.Tensor, frozen: torch.Tensor
    ) -> torch.Tensor:
        """Return `frozen` with the update for the tokens that one slot sends to an expert.

        Args:
            slot: Index of the slot among those in use.
            expert: Index of the expert.
            inputs: Shape (n, inputs).
            frozen: The expert's outputs, shape (n, outputs).
        """
        if self.slots is None:
            return frozen
        slots = self.slots
        parts = (slots.down, slots.ups[0], slots.down_gradient, slots.up_gradients[0])
        updated: torch.Tensor = _AddUpdate.apply(  # type: ignore[no-untyped-call]
            inputs[None],
            frozen[None],
            *(part[slot : slot + 1, expert] for part in parts),
            self.scale,
        )
        return updated[0]


class LowRankLinear(nn.Module):
    """A frozen linear layer plus the low-rank updates of the slots in use."""

    def __init__(self, bases: Sequence[nn.Module], number: int, update: LowRankUpdate) -> None:
        """Wrap a layer.

        Args:
            bases: The layers of the update: each an `nn.Linear`, a quantized subclass of it, or
                GPT-2's `Conv1D`. Several are plain, as `is_plain` tells.
            number: Index of this one.
            update: The update of the layers.
        """
        super().__init__()
        self.base = bases[number]
        self.update = update
        self._bases = tuple(bases)
        self._number = number

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return W x with the update."""
        if self.update.slots is None:  # exactly the base model
            frozen: torch.Tensor = self.base(inputs)
            return frozen
        return self.update.output(self._number, inputs, self._bases)

    @property
    def weight(self) -> torch.Tensor:
        """Raise an `ArgumentError`: weights read without calling the layer have no adapter."""
        raise ArgumentError(
            "this architecture reads the weights of an adapted layer instead of calling it: set "
            "target_modules to layers that are called, such as those of its attention"
        )


def is_plain(layer: nn.Module) -> bool:
    """Return True if calling the layer is the product with its weights and nothing else."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) is nn.Linear and layer.weight.is_floating_point() and not hooked


def _forward(
    inputs: torch.Tensor, slots: SlotsInUse, scale: float, layers: Sequence[nn.Linear]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return (alpha / r) A x of all layers, and the outputs of each."""
    rows = len(slots.down)
    low = _low(inputs.reshape(rows, -1, inputs.shape[-1]), slots.down, scale)
    outputs = []
    for layer, part, up in zip(layers, low.chunk(len(layers), dim=2), slots.ups, strict=True):
        output = functional.linear(inputs, layer.weight, layer.bias)
        of_rows = output.view(rows, -1, output.shape[-1])
        if output.dtype == up.dtype:
            of_rows.baddbmm_(part, up)
        else:
            of_rows.add_(torch.bmm(part, up))
        outputs.append(output)
    return low, tuple(outputs)


class _Updated(torch.autograd.Function):
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
        layers: Sequence[nn.Linear],
    ) -> tuple[torch.Tensor, ...]:
        low, outputs = _forward(inputs, slots, scale, layers)
        ctx.save_for_backward(inputs, low)
        ctx.layer = (slots, scale, layers)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, low = ctx.saved_tensors
        slots, scale, layers = ctx.layer
        rows, width = len(low), inputs.shape[-1]
        of_outputs = [part.reshape(rows, -1, part.shape[-1]) for part in gradients]
        parts = [torch.bmm(part, up.mT) for part, up in zip(of_outputs, slots.ups, strict=True)]
        low_gradient = torch.cat(parts, dim=2).mul_(scale)
        lows = low.chunk(len(layers), dim=2)
        for total, part, gradient in zip(slots.up_gradients, lows, of_outputs, strict=True):
            _add_product(total, part.mT, gradient)
        _add_product(slots.down_gradient, low_gradient.mT, inputs.reshape(rows, -1, width))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        of_inputs = torch.bmm(low_gradient, slots.down).view(-1, width)
        for layer, gradient in zip(layers, of_outputs, strict=True):
            of_inputs.addmm_(gradient.view(-1, gradient.shape[-1]), layer.weight)
        return of_inputs.view(inputs.shape), None, None, None, None


class _AddUpdate(torch.autograd.Function):
    """`frozen + scale B A x` for each row, with the gradients of `_Updated`."""

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
        low = _low(inputs, down, scale)
        ctx.save_for_backward(inputs, low)
        ctx.layer = (down, up, down_gradient, up_gradient, scale)
        if frozen.dtype == up.dtype:
            return torch.baddbmm(frozen, low, up)
        return frozen + torch.bmm(low, up).to(frozen.dtype)

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


def _low(inputs: torch.Tensor, down: torch.Tensor, scale: float) -> torch.Tensor:
    """Return (alpha / r) A x, in the dtype of A."""
    return torch.bmm(inputs.to(down.dtype), down.mT).mul_(scale)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add `left @ right` to a total, which may have a wider dtype."""
    if total.dtype == left.dtype:
        torch.baddbmm(total, left, right, out=total)
    else:
        total.add_(torch.bmm(left, right))
