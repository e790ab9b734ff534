"""The mean negative log-likelihood of the next token, and its gradient, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Rows of logits that are widened to float32 at a time: all at once they are the largest
# tensors of a step by far, and allocating them costs more than filling them.
_ROWS = 64


def next_token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-likelihood of the targets, in nats.

    The same as `cross_entropy(logits.float(), targets)`, computed in float32 whatever the
    logits are, without a float32 copy of them.

    Args:
        logits: Shape (n, vocabulary).
        targets: Token ids, shape (n,).
    """
    loss: torch.Tensor = _NextTokenLoss.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _NextTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count, vocabulary = logits.shape
        gradient = torch.empty_like(logits)
        buffer = torch.empty(min(_ROWS, count), vocabulary, device=logits.device)
        loss = torch.zeros((), device=logits.device)
        for start in range(0, count, _ROWS):
            rows, wanted = logits[start : start + _ROWS], targets[start : start + _ROWS, None]
            block = buffer[: len(rows)].copy_(rows)
            normalizer = block.logsumexp(dim=1, keepdim=True)
            loss += (normalizer - block.gather(1, wanted)).sum()
            # d loss / d logits = softmax - one-hot, over the number of rows.
            block.sub_(normalizer).exp_()
            block.scatter_add_(1, wanted, block.new_full(wanted.shape, -1.0))
            gradient[start : start + _ROWS] = block.mul_(1.0 / count)
        ctx.save_for_backward(gradient)
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None
