"""Describe a training and an answer as plain values, for the metadata of the answer."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.messages.ai import UsageMetadata

from langchain_sift.retrieval.scores import gain_of
from langchain_sift.ttft import Outcome, TrainingRecord


def token_usage(prompt_tokens: int, outcome: Outcome) -> UsageMetadata:
    """Return the numbers of tokens of a prompt and its answer, without training tokens."""
    usage = UsageMetadata(
        input_tokens=prompt_tokens,
        output_tokens=outcome.tokens,
        total_tokens=prompt_tokens + outcome.tokens,
    )
    if outcome.reasoning_tokens:
        usage["output_token_details"] = {"reasoning": outcome.reasoning_tokens}
    return usage


def describe_training(training: TrainingRecord, documents: Sequence[Document]) -> dict[str, object]:
    """Return the record of a training on documents, which are named by their ids."""
    ids = [document.id for document in documents]
    return {
        "documents": [ids[index] for index in training.trained],
        "gains": [gain_of(documents[index]) for index in training.trained],
        "skipped": [ids[index] for index in training.skipped],
        "truncated": [ids[index] for index in training.truncated],
        "steps": training.steps,
        "tokens": training.tokens,
        "losses": list(training.losses),
        "learning_rate": training.learning_rate,
        "update_norm": training.update_norm,
        "drift": training.drift,
        "ended": training.ended,
        "layers": list(training.layers),
        "left_out": list(training.left_out),
        "weights": training.weights,
        "fallback": training.fallback,
    }
