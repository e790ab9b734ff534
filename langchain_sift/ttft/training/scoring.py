"""How well a model predicts a text: negative log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from langchain_sift.ttft.training.loss import make_targets, row_losses


def negative_log_likelihoods(
    model: PreTrainedModel,
    head: nn.Linear | None,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> list[float]:
    """Return the negative log-likelihood, in nats, of each target after its context.

    Args:
        model: Any causal language model.
        head: What `linear_head` says of it.
        pairs: Token ids of contexts, at least one each, and of targets, at least one each.
    """
    targets = make_targets(
        [[*context, *target] for context, target in pairs],
        first=[len(context) for context, _ in pairs],
        mean=False,
        device=model.device,
    )
    with torch.inference_mode():
        nats: list[float] = row_losses(model, head, targets).tolist()
    return nats
