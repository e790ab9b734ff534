"""The negative log-likelihood of the next token, and its gradient, in one pass.

The output layer is frozen, so its gradient is not needed, and the logits are needed a block of
positions at a time only: there is never a tensor of all positions by the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

# Logits that are widened to float32 at a time. On a CPU a block stays in its cache.
_BLOCK = {"cpu": 1 << 18}
_BLOCK_ON_ACCELERATOR = 1 << 26


@dataclass(frozen=True, slots=True)
class Targets:
    """The tokens that count in a batch of b rows of t token ids each."""

    token_ids: torch.Tensor
    """Shape (b, t), padded on the right, where a causal model does not look."""

    weights: torch.Tensor
    """Shape (b, t - 1): what position i's loss, on token i + 1, counts."""

    counted: torch.Tensor | None
    """The flat indices of the positions of weight other than 0; None: look at all."""


def make_targets(
    rows: Sequence[Sequence[int]],
    *,
    first: Sequence[int] | None = None,
    mean: bool,
    length: int | None = None,
    device: torch.device,
) -> Targets:
    """Return the rows as one batch.

    Args:
        rows: Token ids, at least two each.
        first: For each row, the index of the first token that counts; by default the second.
        mean: Whether a row's loss is the mean over its tokens, or else the sum.
        length: t, at least the longest row's; by default just that.
        device: Where the model is.
    """
    length = length or max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    # Never the process's default dtype: another thread may load a model in another.
    weights = torch.zeros(len(rows), length - 1, dtype=torch.float32)
    for number, row in enumerate(rows):
        start = first[number] if first else 1
        token_ids[number, : len(row)] = torch.tensor(row)
        weights[number, start - 1 : len(row) - 1] = 1.0 / (len(row) - start) if mean else 1.0
    counted = None if bool((weights != 0).all()) else weights.flatten().nonzero()[:, 0]
    return Targets(
        token_ids.to(device),
        weights.to(device),
        counted if counted is None else counted.to(device),
    )


def linear_head(model: PreTrainedModel) -> nn.Linear | None:
    """Return the layer that makes logits of the last hidden states, where that is all it does.

    Some architectures cap or scale their logits; whether this one does is asked of the model.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        return None
    probe = torch.arange(4, device=model.device)[None]
    with torch.inference_mode():
        logits = model(input_ids=probe, use_cache=False).logits
        states = model.base_model(input_ids=probe, use_cache=False)[0]
        plain = states.shape[-1] == head.in_features and torch.equal(head(states), logits)
    return head if plain else None


def row_losses(model: PreTrainedModel, head: nn.Linear | None, targets: Targets) -> torch.Tensor:
    """Return each row's loss in nats, shape (b,): the weighted sum over its tokens.

    The same as `cross_entropy(logits.float(), ...)` of each row, whatever the model's dtype.

    Args:
        model: Any causal language model.
        head: What `linear_head` says of it.
        targets: What counts.
    """
    inputs = {"input_ids": targets.token_ids, "use_cache": False}
    source = model(**inputs).logits if head is None else model.base_model(**inputs)[0]
    losses: torch.Tensor = _RowLosses.apply(source[:, :-1], head, targets)  # type: ignore[no-untyped-call]
    return losses


class _RowLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, head: nn.Linear | None, targets: Targets
    ) -> torch.Tensor:
        rows, positions, _ = source.shape
        flat = source.flatten(0, 1)
        wanted = targets.token_ids[:, 1:].flatten()
        weights = targets.weights.flatten()
        row_of = torch.arange(rows, device=flat.device).repeat_interleave(positions)
        losses = torch.zeros(rows, dtype=torch.float32, device=flat.device)
        gradient = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        for block in _blocks(flat, head, targets.counted):
            logits = flat[block] if head is None else F.linear(flat[block], head.weight, head.bias)
            # A copy: in a float32 model without a head of its own, these are the logits.
            log_p = logits.float() if logits.dtype != torch.float32 else logits.clone()
            token, weight = wanted[block, None], weights[block]
            normalizer = log_p.logsumexp(dim=1, keepdim=True)
            nats = (normalizer - log_p.gather(1, token))[:, 0]
            losses.index_add_(0, row_of[block], nats * weight)
            if gradient is None:
                continue
            # d loss / d logits = softmax - one-hot.
            log_p.sub_(normalizer).exp_()
            log_p.scatter_add_(1, token, log_p.new_full(token.shape, -1.0))
            of_logits = log_p.mul_(weight[:, None]).to(flat.dtype)
            gradient[block] = of_logits if head is None else of_logits @ head.weight
        ctx.save_for_backward(gradient, row_of)
        ctx.shape = source.shape
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient, row_of = ctx.saved_tensors
        scaled = gradient * scale.to(gradient.dtype)[row_of, None]
        return scaled.view(ctx.shape), None, None


def _blocks(
    flat: torch.Tensor, head: nn.Linear | None, counted: torch.Tensor | None
) -> Iterator[slice | torch.Tensor]:
    """Yield the positions that count, so many at a time that their logits are few enough."""
    vocabulary = flat.shape[1] if head is None else head.out_features
    logits = _BLOCK.get(flat.device.type, _BLOCK_ON_ACCELERATOR)
    size = max(16, logits // vocabulary)
    if counted is not None:
        yield from torch.split(counted, size)
        return
    for start in range(0, len(flat), size):
        yield slice(start, start + size)
