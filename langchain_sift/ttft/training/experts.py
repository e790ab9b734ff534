"""Apply the low-rank adapters of several prompts to a mixture of experts.

Each expert has an A and a B of its own for each slot. A batch is a list of tokens here, the rows
of the prompts one after the other: the tokens of row i go through the adapters of slot i, expert
by expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from langchain_sift.ttft.training.lora import MIXED_ROWS, LowRankUpdate


class LowRankExperts(nn.Module):
    """The frozen experts of a layer plus the low-rank updates of the slots in use."""

    def __init__(self, base: nn.Module) -> None:
        """Wrap experts that `target_layers.expert_projections` knows, with no update."""
        super().__init__()
        self.base: Any = base
        self._updates: dict[str, LowRankUpdate] = {}

    def adapt(self, projection: str, rank: int, scale: float) -> LowRankUpdate:
        """Add an update to the weights into the experts ("gate_up_proj", "up_proj") or out."""
        experts, *features = getattr(self.base, projection).shape
        inputs, outputs = features if self.base.is_transposed else reversed(features)
        update = LowRankUpdate(inputs, (outputs,), rank, scale, experts=experts)
        self._updates[projection] = update
        return update

    def adapted_weights(self) -> list[torch.Tensor]:
        """Return the weights that have an update."""
        return [getattr(self.base, projection) for projection in self._updates]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return each token's weighted sum of its experts' outputs.

        Args:
            hidden_states: Shape (tokens, width).
            top_k_index: The experts of each token, shape (tokens, k).
            top_k_weights: Their weights, of the same shape.
        """
        slots = next(iter(self._updates.values())).slots
        if slots is None:  # exactly the base model, and faster
            base: torch.Tensor = self.base(hidden_states, top_k_index, top_k_weights)
            return base
        rows = len(slots.down)
        if len(hidden_states) % rows:
            raise RuntimeError(MIXED_ROWS)
        tokens = (hidden_states, top_k_index, top_k_weights)
        parts = zip(*(torch.tensor_split(part, rows) for part in tokens), strict=True)
        return torch.cat([self._route(slot, *part) for slot, part in enumerate(parts)])

    def _route(
        self, slot: int, states: torch.Tensor, experts: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """Send the tokens of one slot through their experts, as transformers' experts do."""
        base = self.base
        total = torch.zeros_like(states)
        for expert in sorted(set(experts.flatten().tolist())):
            token, choice = torch.where(experts == expert)
            into = "gate_up_proj" if base.has_gate else "up_proj"
            hidden = self._project(into, slot, expert, states[token])
            hidden = base._apply_gate(hidden) if base.has_gate else base.act_fn(hidden)
            output = self._project("down_proj", slot, expert, hidden)
            if getattr(base, "has_post_expert_norm", False):
                output = base.post_expert_norm(output)
            output = output * shares[token, choice, None]
            total.index_add_(0, token, output.to(total.dtype))
        return total

    def _project(
        self, projection: str, slot: int, expert: int, inputs: torch.Tensor
    ) -> torch.Tensor:
        base = self.base
        weight = getattr(base, projection)[expert]
        bias = getattr(base, f"{projection}_bias")[expert] if base.has_bias else None
        weight = weight.mT if base.is_transposed else weight
        frozen = nn.functional.linear(inputs, weight, bias)
        update = self._updates.get(projection)
        return frozen if update is None else update.add_of(slot, expert, inputs, frozen)
