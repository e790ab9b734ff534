"""Set the learning rate of a request by the gradient of its first step."""

from __future__ import annotations

import torch

_FALL = 0.6  # nats per token
_LARGEST = 0.01


def first_learning_rate(gradient: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Return the learning rate with which the first step lowers the loss by 0.6 nats per token.

    The first step of AdamW changes each weight by the learning rate, against the sign of its
    gradient. To first order, the loss falls by the rate times the gradient's L1 norm. This is
    Polyak's step size (Introduction to Optimization, 1987, section 5.3) with that norm and a fixed
    fall of the loss. A loss below 1.2 falls by half of it instead.

    Args:
        gradient: Gradient of the mean loss of the first document, shape (size,).
        loss: That loss, in nats per token, a scalar.

    Returns:
        The rate, a scalar, at most 0.01: 0 for a gradient that is not finite, the largest for one
        that is zero.
    """
    fall = (loss.to(gradient) / 2).clamp(max=_FALL)
    rate = fall / torch.linalg.vector_norm(gradient, ord=1)
    return torch.nan_to_num(rate, nan=0.0, posinf=_LARGEST, neginf=0.0).clamp(0.0, _LARGEST)
