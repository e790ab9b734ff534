"""Describe a training as plain values, for the metadata of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from langchain_sift.retrieval.scores import gain_of
from langchain_sift.ttft import TrainingRecord


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
