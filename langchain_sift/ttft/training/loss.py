"""Compute the negative log-likelihood of the next token, and its gradient, in one pass.

A fused linear cross-entropy as in Liger Kernel (arXiv 2410.10989): the output layer is frozen,
so only the gradient of its inputs is needed, and logits exist for one block of positions at a
time, never for all positions by the whole vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from langchain_sift.ttft.model.positions import encoding_switch
from langchain_sift.ttft.training.output_layer import OutputLayer
from langchain_sift.ttft.training.targets import Targets, make_targets
from langchain_sift.ttft.training.top_logits import TopLogits, divergence

# Number of float32 logits that each thread works on at once: they stay in its cache.
_CHUNK = 1 << 17

_WITHOUT_CACHE = MappingProxyType({"use_cache": False})


def row_losses(
    model: PreTrainedModel,
    head: OutputLayer | None,
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


def backward(model: PreTrainedModel, head: OutputLayer | None, targets: Targets) -> torch.Tensor:
    """Compute the gradients of all rows' losses, and return the losses as `row_losses` does."""
    losses = row_losses(model, head, targets)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def negative_log_likelihoods(
    model: PreTrainedModel,
    head: OutputLayer | None,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> list[float]:
    """Return the negative log-likelihood of each target given its context, in nats.

    Args:
        model: Any causal language model.
        head: The result of `linear_head(model)`.
        pairs: Token ids of contexts and targets, at least one token each.
    """
    switch = encoding_switch(model)
    beyond = [len(context) + len(target) > switch for context, target in pairs]
    parts = {
        side: [pair for pair, other in zip(pairs, beyond, strict=True) if other is side]
        for side in set(beyond)
    }
    nats = {side: iter(_nats_in_a_pass(model, head, part)) for side, part in parts.items()}
    return [next(nats[side]) for side in beyond]


def _nats_in_a_pass(
    model: PreTrainedModel,
    head: OutputLayer | None,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> list[float]:
    """Return the same of pairs that may share a pass."""
    targets = make_targets(
        [[*context, *target] for context, target in pairs],
        counted=[range(len(context), len(context) + len(target)) for context, target in pairs],
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
        ctx: Any, source: torch.Tensor, head: OutputLayer | None, targets: Targets
    ) -> torch.Tensor:
        rows, positions, _ = source.shape
        flat, counted = source.flatten(0, 1), targets.counted
        tokens = targets.token_ids[:, 1:].flatten()
        weights = targets.weights.flatten()
        row_of = torch.arange(rows, device=flat.device).repeat_interleave(positions)
        states, of_states = flat, None
        if counted is not None:
            states, tokens, weights = flat[counted], tokens[counted], weights[counted]
        if ctx.needs_input_grad[0]:
            of_states = torch.empty_like(states)
        work = _from_logits if head is None else functools.partial(_from_states, head)
        nats = _apart(work, states, tokens[:, None], weights[:, None], of_states, targets=targets)
        losses = torch.zeros(rows, dtype=torch.float32, device=flat.device)
        losses.index_add_(0, row_of if counted is None else row_of[counted], nats * weights)
        if of_states is not None and counted is not None:
            gradient = torch.zeros_like(flat)
            gradient[counted] = of_states
            of_states = gradient
        ctx.save_for_backward(of_states, row_of)
        ctx.shape = source.shape
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient, row_of = ctx.saved_tensors
        scaled = gradient * scale.to(gradient.dtype)[row_of, None]
        return scaled.view(ctx.shape), None, None


def _apart(
    work: Callable[..., torch.Tensor],
    states: torch.Tensor,
    tokens: torch.Tensor,
    weights: torch.Tensor,
    of_states: torch.Tensor | None,
    *,
    targets: Targets,
) -> torch.Tensor:
    """Do the work on the positions of a teacher apart from that on the others."""
    if targets.teacher is None:
        return work(states, tokens, weights, of_states)
    others = torch.ones(len(states), dtype=torch.bool, device=states.device)
    others[targets.taught] = False
    nats = torch.empty(len(states), dtype=torch.float32, device=states.device)
    own = others.nonzero()[:, 0]
    for at, labels in ((own, tokens[own]), (targets.taught, targets.teacher)):
        if at is not None and len(at):
            out = None if of_states is None else states.new_empty(len(at), states.shape[1])
            nats[at] = work(states[at], labels, weights[at], out)
            if of_states is not None and out is not None:
                of_states[at] = out
    return nats


def _from_states(
    head: OutputLayer,
    states: torch.Tensor,
    tokens: torch.Tensor | TopLogits,
    weights: torch.Tensor,
    of_states: torch.Tensor | None,
) -> torch.Tensor:
    """Return the negative log-likelihood of each row's token, and write its gradient.

    Args:
        head: The output layer.
        states: Hidden states, shape (n, width).
        tokens: Shape (n, 1); or a teacher's in their place.
        weights: Those of the gradient, shape (n, 1).
        of_states: Gets the gradient of the states. None means that there is none.
    """
    linear, size = head.linear, head.block_rows(len(states))
    space = states.new_empty(min(size, len(states)), linear.out_features)
    nats = weights.new_empty(len(states))
    for block in _blocks(len(states), size):
        logits = space[: len(states[block])]
        if linear.bias is None:
            torch.mm(states[block], linear.weight.mT, out=logits)
        else:
            torch.addmm(linear.bias, states[block], linear.weight.mT, out=logits)
        out = None if of_states is None else logits
        nats[block] = _through_softmax(logits, tokens[block], weights[block], out, head)
        if of_states is not None:
            torch.mm(logits, linear.weight, out=of_states[block])
    return nats


def _from_logits(
    logits: torch.Tensor,
    tokens: torch.Tensor | TopLogits,
    weights: torch.Tensor,
    of_logits: torch.Tensor | None,
) -> torch.Tensor:
    """Do as `_from_states` with the model's own logits in place of states."""
    return _through_softmax(logits, tokens, weights, of_logits, None)


def _through_softmax(
    logits: torch.Tensor,
    tokens: torch.Tensor | TopLogits,
    weights: torch.Tensor,
    out: torch.Tensor | None,
    head: OutputLayer | None,
) -> torch.Tensor:
    """Return the negative log-likelihood of each row's token, chunk by chunk.

    Args:
        logits: Shape (n, vocabulary). With a head, the outputs of its linear layer, in memory that
            is free to be written to.
        tokens: Shape (n, 1).
        weights: Those of the gradient, shape (n, 1).
        out: Gets the gradient of `logits`, which may be these themselves. None: it is not needed.
        head: The output layer.
    """
    size = len(logits)
    if logits.device.type == "cpu":
        size = max(1, _CHUNK * torch.get_num_threads() // logits.shape[1])
    nats = weights.new_empty(len(logits))
    for rows in _blocks(len(logits), size):
        to = None if out is None else out[rows]
        own = logits[rows].float() if logits.dtype != torch.float32 else logits[rows]
        own = own.clone() if head is None and own.dtype == logits.dtype else own
        nats[rows] = _in_place(own, tokens[rows], weights[rows], to, head)
    return nats


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Yield the slices of `count` rows, at most `size` in each."""
    for start in range(0, count, max(1, size)):
        yield slice(start, start + size)


def _in_place(
    logits: torch.Tensor,
    tokens: torch.Tensor | TopLogits,
    weights: torch.Tensor,
    out: torch.Tensor | None,
    head: OutputLayer | None,
) -> torch.Tensor:
    """Do as `_through_softmax` in the memory of float32 logits, in passes that stay in a cache."""
    slope = None
    if head is not None and head.scale != 1.0:
        logits.mul_(head.scale)
        weights = weights * head.scale
    if head is not None and head.cap is not None:
        logits.div_(head.cap).tanh_()
        slope = 1.0 - logits.square()  # of the hyperbolic tangent
        logits.mul_(head.cap)
    if isinstance(tokens, TopLogits):
        nats = divergence(logits, tokens, weights)
    else:
        nats = _cross_entropy(logits, tokens, None if out is None else weights)
    if out is not None:
        if slope is not None:
            logits.mul_(slope)
        if out.data_ptr() != logits.data_ptr():
            out.copy_(logits)
    return nats


def _cross_entropy(
    logits: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Return the negative log-likelihood of each row's token; replace the logits by its gradient.

    Without weights there is no gradient.
    """
    of_token = logits.gather(1, tokens)
    largest = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    log_p = of_token - largest - total.log()
    if weights is not None:
        # d loss / d logits = softmax - one-hot (Bishop 2006, eq. 4.109)
        logits.mul_(weights / total).scatter_(1, tokens, log_p.expm1() * weights)
    return -log_p[:, 0]
