"""Compute the negative log-likelihood of the next token, and its gradient, in one pass.

A fused linear cross-entropy as in Liger Kernel (arXiv 2410.10989): the output layer is frozen,
so only the gradient of its inputs is needed, and logits exist for one block of positions at a
time, never for all positions by the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

# Number of float32 logits in one block. On a CPU, a block stays in its cache.
_BLOCK = {"cpu": 1 << 18}
_BLOCK_ON_ACCELERATOR = 1 << 26


_WITHOUT_CACHE = MappingProxyType({"use_cache": False})


@dataclass(frozen=True, slots=True)
class Targets:
    """The tokens of a batch, b rows of t token ids, and their weights in the loss."""

    token_ids: torch.Tensor
    """Shape (b, t), padded on the right, where a causal model does not attend."""

    weights: torch.Tensor
    """Shape (b, t - 1): the weight of position i's loss, which is on token i + 1."""

    counted: torch.Tensor | None
    """Flat indices of the positions with nonzero weight. None means all positions."""


def make_targets(
    rows: Sequence[Sequence[int]],
    *,
    first: Sequence[int] | None = None,
    mean: bool,
    length: int | None = None,
    device: torch.device,
) -> Targets:
    """Make one batch of the rows.

    Args:
        rows: Token ids, at least two per row.
        first: Index of the first token of each row that counts. None means the second token.
        mean: If True, a row's loss is the mean over its tokens, otherwise their sum.
        length: t, at least the longest row's length. None means exactly that length.
        device: The device of the model.
    """
    length = length or max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    # Not the default dtype of the process: another thread may change it while it loads a model.
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
    """Return the output layer if the logits are just its outputs on the last hidden states.

    Some architectures cap or scale their logits; a forward pass shows whether this one does.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        return None
    probe = torch.arange(4, device=model.device)[None]
    with torch.inference_mode():
        logits = model(input_ids=probe, use_cache=False).logits
        states = model.base_model(input_ids=probe, use_cache=False)[0]
        is_linear = states.shape[-1] == head.in_features and torch.equal(head(states), logits)
    return head if is_linear else None


def row_losses(
    model: PreTrainedModel,
    head: nn.Linear | None,
    targets: Targets,
    inputs: Mapping[str, object] = _WITHOUT_CACHE,
) -> torch.Tensor:
    """Return each row's loss in nats, shape (b,): the weighted sum over its tokens.

    Equal to `cross_entropy(logits.float(), ...)` of each row, whatever the model's dtype.

    Args:
        model: Any causal language model.
        head: The result of `linear_head(model)`.
        targets: The tokens and their weights.
        inputs: Further arguments of the model, such as the cache of what the tokens follow.
    """
    token_ids: Any = targets.token_ids
    source = (
        model(input_ids=token_ids, **inputs).logits
        if head is None
        else model.base_model(input_ids=token_ids, **inputs)[0]
    )
    losses: torch.Tensor = _RowLosses.apply(source[:, :-1], head, targets)  # type: ignore[no-untyped-call]
    return losses


def backward(model: PreTrainedModel, head: nn.Linear | None, targets: Targets) -> torch.Tensor:
    """Compute the gradients of all rows' losses, and return the losses as `row_losses` does."""
    losses = row_losses(model, head, targets)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def negative_log_likelihoods(
    model: PreTrainedModel,
    head: nn.Linear | None,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> list[float]:
    """Return the negative log-likelihood of each target given its context, in nats.

    Args:
        model: Any causal language model.
        head: The result of `linear_head(model)`.
        pairs: Token ids of contexts and targets, at least one token each.
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


class _RowLosses(torch.autograd.Function):
    """The losses of `row_losses`, with their gradient computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, head: nn.Linear | None, targets: Targets
    ) -> torch.Tensor:
        rows, positions, _ = source.shape
        flat = source.flatten(0, 1)
        next_tokens = targets.token_ids[:, 1:].flatten()
        weights = targets.weights.flatten()
        row_of = torch.arange(rows, device=flat.device).repeat_interleave(positions)
        losses = torch.zeros(rows, dtype=torch.float32, device=flat.device)
        gradient = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        for block in _blocks(flat, head, targets.counted):
            logits = flat[block] if head is None else F.linear(flat[block], head.weight, head.bias)
            # Copy float32 logits, which without a head are the model's outputs.
            log_p = logits.float() if logits.dtype != torch.float32 else logits.clone()
            token, weight = next_tokens[block, None], weights[block]
            # loss = log sum exp(logits) - logit of the next token
            normalizer = log_p.logsumexp(dim=1, keepdim=True)
            nats = (normalizer - log_p.gather(1, token))[:, 0]
            losses.index_add_(0, row_of[block], nats * weight)
            if gradient is None:
                continue
            # d loss / d logits = softmax - one-hot (Bishop 2006, eq. 4.109)
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
    """Yield blocks of the positions that count, each with few enough logits."""
    vocabulary = flat.shape[1] if head is None else head.out_features
    logits = _BLOCK.get(flat.device.type, _BLOCK_ON_ACCELERATOR)
    size = max(16, logits // vocabulary)
    if counted is not None:
        yield from torch.split(counted, size)
        return
    for start in range(0, len(flat), size):
        yield slice(start, start + size)
