"""Test-time fine-tuning: one gradient step on each document, the most informative first.

The recipe of arXiv 2410.08020, section 6 (after Hardt & Sun, arXiv 2305.18466), with adapters
in place of all weights, as the paper does for its larger models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.adapter import Adapter
from langchain_sift.ttft.loss import next_token_loss
from langchain_sift.ttft.tokens import TokenizedDocument


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What training on one prompt's documents did."""

    losses: tuple[float, ...] = ()
    """Mean loss in nats per token, on each step's document just before the step."""

    tokens: int = 0
    """Tokens learned from, repeats counted."""

    trained: tuple[int, ...] = ()
    """Indices of the documents learned from, in order."""

    skipped: tuple[int, ...] = ()
    """Indices of the documents of fewer than two tokens."""

    truncated: tuple[int, ...] = ()
    """Indices of the documents that were cut at `max_length`."""

    seconds: float = 0.0

    fallback: str | None = None
    """Why the base model answers, where training was not possible."""

    @property
    def steps(self) -> int:
        """The number of gradient steps taken."""
        return len(self.losses)


def train(
    model: PreTrainedModel,
    adapter: Adapter,
    documents: Sequence[TokenizedDocument],
    config: FineTuneConfig,
    *,
    given: int,
    should_stop: Callable[[], bool],
) -> TrainingRecord:
    """Train the adapter, which is left enabled unless the record says why not.

    Args:
        model: The model that holds the adapter.
        adapter: In its initial state.
        documents: Most informative first.
        config: The recipe.
        given: How many documents there were before those too short were left out.
        should_stop: Asked before each step; where it returns True, training ends there.

    Returns:
        What was done. Where a loss or the weights stop being finite, the adapter is reset and
        `fallback` says so: a broken adapter never answers.
    """
    began = time.perf_counter()
    trained: list[int] = []
    losses: list[float] = []
    fallback = None if documents else "no document to learn from"
    # The optimizer's moments belong to the prompt, as the weights do.
    optimizer = torch.optim.AdamW(
        [adapter.weights], lr=config.learning_rate, eps=1e-8, weight_decay=0.0, fused=True
    )
    # The caller may be inside no_grad or inference_mode.
    with torch.inference_mode(mode=False), torch.enable_grad():
        adapter.enable(enabled=bool(documents))
        for document in documents:
            token_ids = torch.tensor([document.token_ids], device=adapter.weights.device)
            for _ in range(config.steps_per_document):
                if should_stop() or fallback:
                    break
                loss = _step(model, adapter, optimizer, token_ids)
                if math.isfinite(loss):
                    losses.append(loss)
                else:
                    fallback = f"the loss was not finite in step {len(losses) + 1}"
            else:
                trained.append(document.index)
        if fallback is None and not bool(torch.isfinite(adapter.weights).all()):
            fallback = "the adapter's weights were not finite after training"
        if fallback is not None:
            adapter.reset()
    kept = {document.index: document for document in documents}
    lengths = {index: len(document.token_ids) for index, document in kept.items()}
    return TrainingRecord(
        losses=tuple(losses),
        tokens=config.steps_per_document * sum(lengths[index] for index in trained),
        trained=tuple(trained),
        skipped=tuple(index for index in range(given) if index not in kept),
        truncated=tuple(index for index, document in kept.items() if document.truncated),
        seconds=time.perf_counter() - began,
        fallback=fallback,
    )


def _step(
    model: PreTrainedModel,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    token_ids: torch.Tensor,
) -> float:
    logits = model(input_ids=token_ids, use_cache=False).logits[0, :-1]
    loss = next_token_loss(logits, token_ids[0, 1:])
    adapter.clear_gradient()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())
