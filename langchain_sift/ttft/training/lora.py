"""Apply the low-rank adapters of several prompts to one frozen model (LoRA, arXiv 2106.09685).

    h_i = W x_i + (alpha / r) B_i A_i x_i     W frozen and shared, A_i: r x in, B_i: out x r

Row i of a batch goes through the adapter of slot i: one product with W for the whole batch, and
one batched product with all A_i and all B_i. No row can reach the adapter of another, because
no module has a current adapter that could be switched. The layers of a mixture of experts are in
`experts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.training.low_rank_products import (
    AddUpdate,
    FrozenWeights,
    SlotsInUse,
    Updated,
    outputs_of_one,
    updated_outputs,
)

MIXED_ROWS = "this architecture mixes the rows of a batch: run its prompts one by one"


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
        # The outputs for the last inputs that are still to be returned, by the layer's index.
        self._inputs: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}
        # Of layers that are plain; none of others.
        self._frozen: list[FrozenWeights] | None = None
        # A and B transposed as matrices, if one slot is in use.
        self._single: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None

    def use(self, slots: SlotsInUse | None) -> None:
        """Set the slots in use, and forget what was computed with others."""
        self.slots = slots
        self._inputs, self._outputs = None, {}
        self._frozen = None
        self._single = None
        if slots is not None and slots.down.ndim == 3 and len(slots.down) == 1:
            self._single = slots.down[0], [up[0] for up in slots.ups]

    def output(self, number: int, inputs: torch.Tensor, bases: Sequence[nn.Module]) -> torch.Tensor:
        """Return W x + (alpha / r) B A x of a layer, with the slots in use (LoRA, eq. 3).

        The first of the layers that is called computes the outputs of all of them.

        Args:
            number: Index of the layer among those of the update.
            inputs: x of all layers.
            bases: The frozen layers.
        """
        if len(bases) == 1:
            return self._compute(inputs, bases)[0]
        if inputs is not self._inputs or number not in self._outputs:
            self._inputs = inputs
            self._outputs = dict(enumerate(self._compute(inputs, bases)))
        output = self._outputs.pop(number)
        if not self._outputs:
            self._inputs = None
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
        if self._frozen is None:
            are_plain = all(map(is_plain, bases))
            layers: Any = bases
            self._frozen = [(layer.weight, layer.bias) for layer in layers] if are_plain else []
        if self._frozen:
            if not torch.is_grad_enabled():
                if self._single is not None:
                    return outputs_of_one(inputs, *self._single, self.scale, self._frozen)
                return updated_outputs(inputs, slots, self.scale, self._frozen)[1]
            updated: Any = Updated.apply(inputs, slots.down, slots, self.scale, self._frozen)  # type: ignore[no-untyped-call]
            return tuple(updated)
        (base,) = bases
        frozen = base(inputs)
        added: torch.Tensor = AddUpdate.apply(  # type: ignore[no-untyped-call]
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
        updated: torch.Tensor = AddUpdate.apply(  # type: ignore[no-untyped-call]
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
        """Raise an `ArgumentError`: weights read without calling the layer have no adapter.

        Such layers get none (`adapted_model.layers_to_adapt`), unless only some passes read them.
        """
        raise ArgumentError(
            "the model reads the weights of an adapted layer without calling it: set "
            "target_modules to the names of layers that it calls in every pass"
        )


def is_plain(layer: nn.Module) -> bool:
    """Return True if calling the layer is the product with its weights and nothing else."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) is nn.Linear and layer.weight.is_floating_point() and not hooked
