"""Make the optimizer of all slots, whose states are rows of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def make_optimizer(weights: torch.Tensor, moments: torch.Tensor) -> torch.optim.AdamW:
    """Return an AdamW (arXiv 1711.05101, algorithm 2) with one group of settings for each slot.

    Args:
        weights: Shape (slots, size).
        moments: The first and the second moments, shape (2, slots, size).
    """
    on_cpu = weights.device.type == "cpu"
    rows = [nn.Parameter(row) for row in weights]
    # Each request has its learning rate; a recorded step reads it from a tensor.
    rates: list[Any] = [0.0 if on_cpu else weights.new_zeros(()) for _ in rows]
    optimizer = torch.optim.AdamW(
        [{"params": [row], "lr": rate} for row, rate in zip(rows, rates, strict=True)],
        eps=1e-8,
        weight_decay=0.0,
        fused=True,
        capturable=not on_cpu,
    )
    for slot, row in enumerate(rows):
        optimizer.state[row] = {
            "step": weights.new_zeros(()),
            "exp_avg": moments[0, slot],
            "exp_avg_sq": moments[1, slot],
        }
    return optimizer
