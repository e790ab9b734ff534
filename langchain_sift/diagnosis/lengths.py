"""Measure the lengths of texts against the number of tokens that their embeddings read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.indexing.token_lengths import token_limit_of
from langchain_sift.retrieval.constraints import tokenizer_of


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of sampled texts."""

    unit: str
    """"tokens" of the embeddings' tokenizer, or "characters" if they show none."""

    median: float
    percent_95: float
    longest: int

    limit: int | None
    """Number of tokens that the embeddings read. None means that it is not known."""

    cut_texts: float | None
    """Fraction of the texts that are longer. None if the limit is not known."""

    cut_share: float | None
    """Fraction of all tokens that are beyond the limit, which no search can find."""


def measure_lengths(texts: Sequence[str], embeddings: object) -> Lengths:
    """Measure the lengths of at least one text.

    Args:
        texts: The texts.
        embeddings: The embeddings of the store; None if they are not known.
    """
    tokenizer = tokenizer_of(embeddings)
    limit = None if tokenizer is None else token_limit_of(embeddings, tokenizer)
    count: Callable[[str], int] = len if tokenizer is None else _counter(tokenizer)
    lengths = np.array([count(text) for text in texts])
    median, percent_95 = np.percentile(lengths, [50, 95]).tolist()
    cut_texts = cut_share = None
    if limit is not None:
        cut_texts = float((lengths > limit).mean())
        cut_share = float(np.maximum(lengths - limit, 0).sum() / max(1, lengths.sum()))
    return Lengths(
        unit="characters" if tokenizer is None else "tokens",
        median=median,
        percent_95=percent_95,
        longest=int(lengths.max()),
        limit=limit,
        cut_texts=cut_texts,
        cut_share=cut_share,
    )


def _counter(tokenizer: object) -> Callable[[str], int]:
    def count(text: str) -> int:
        # A text longer than the model's context is what is looked for: no warning.
        return len(tokenizer.encode(text, verbose=False))  # type: ignore[attr-defined]

    return count
