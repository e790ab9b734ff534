"""How well a model predicts a text: negative log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import PreTrainedModel


def negative_log_likelihood(
    model: PreTrainedModel, context: Sequence[int], target: Sequence[int]
) -> float:
    """Return the negative log-likelihood, in nats, of the target's tokens after the context.

    Args:
        model: Any causal language model.
        context: Token ids, at least one: what the first token of the target is predicted from.
        target: Token ids.
    """
    token_ids = torch.tensor([[*context, *target]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=token_ids, use_cache=False, logits_to_keep=len(target) + 1).logits
        # The last position predicts what comes after the target.
        losses = F.cross_entropy(
            logits[0, :-1].float(), token_ids[0, len(context) :], reduction="sum"
        )
    return float(losses)
