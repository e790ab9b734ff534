"""Summarize each method over many prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.report.intervals import ratio_standard_error
from langchain_sift.report.rows import BASE, Row

PERCENT_OF_BASE = "percent_of_base"


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """The results of one method over many prompts; a mean over prompts unless stated otherwise."""

    prompts: int
    """Number of prompts with a result."""

    failures: int
    """Number of prompts without a result."""

    bits_per_byte: float
    """Sum of all bits over sum of all bytes."""

    percent_of_base: float
    """100 x bits per byte over those of the base model on the same prompts; lower is better."""

    standard_error: float
    """Standard error of `percent_of_base` over sources of prompts; 0 for the base model."""

    perplexity: float
    """2 to the mean number of bits per token of the scored text."""

    scores: Mapping[str, float]
    """Mean score of the answers by metric."""

    score_errors: Mapping[str, float]
    """Standard error of each mean score over sources of prompts."""

    seconds: float
    seconds_retrieval: float
    seconds_training: float
    seconds_answering: float
    tokens_training: float
    tokens_context: float
    documents_used: float
    distinct_documents: float
    distinct_sources: float
    """NaN if no document names its source."""

    redundancy: float
    peak_memory: int | None
    """Highest peak of GPU memory over all prompts, in bytes; None without a GPU."""


def summarize(rows: Iterable[Row]) -> dict[str, MethodSummary]:
    """Summarize each method over rows of one protocol, in the order of first occurrence."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    base = {row.prompt: row for row in by_method.get(BASE, []) if row.failure is None}
    return {method: _summary(rows, base) for method, rows in by_method.items()}


def quality(summary: MethodSummary | None, metric: str) -> tuple[float, float]:
    """Return a metric of a summary and its standard error; NaN if it was not measured."""
    if summary is None:
        return math.nan, math.nan
    if metric == PERCENT_OF_BASE:
        return summary.percent_of_base, summary.standard_error
    return summary.scores.get(metric, math.nan), summary.score_errors.get(metric, math.nan)


def rank_methods(summaries: Mapping[str, MethodSummary], metric: str) -> list[str]:
    """Return the methods that have a metric, the best first."""
    sign = 1 if metric == PERCENT_OF_BASE else -1
    values = {method: sign * quality(summary, metric)[0] for method, summary in summaries.items()}
    scored = [method for method, value in values.items() if math.isfinite(value)]
    return sorted(scored, key=values.__getitem__)


def _summary(rows: Sequence[Row], base: Mapping[str, Row]) -> MethodSummary:
    done = [row for row in rows if row.failure is None]
    scored = [row for row in done if math.isfinite(row.bits)]
    percent, standard_error = _percent_of_base(scored, base)
    bits = sum(row.bits for row in scored)
    total_bytes = sum(row.bytes for row in scored)
    total_tokens = sum(row.tokens for row in scored)
    metrics = dict.fromkeys(name for row in done for name in row.scores)
    answered = {name: [row for row in done if name in row.scores] for name in metrics}

    def mean(value: Callable[[Row], float]) -> float:
        values = [number for row in done if math.isfinite(number := value(row))]
        return float(np.mean(values)) if values else math.nan

    return MethodSummary(
        prompts=len(done),
        failures=len(rows) - len(done),
        bits_per_byte=bits / total_bytes if total_bytes else math.nan,
        percent_of_base=percent,
        standard_error=standard_error,
        perplexity=_perplexity(bits, total_tokens),
        scores={name: _mean_score(name, rows) for name, rows in answered.items()},
        score_errors={name: _score_error(name, rows) for name, rows in answered.items()},
        seconds=mean(lambda row: row.seconds),
        seconds_retrieval=mean(lambda row: row.seconds_retrieval),
        seconds_training=mean(lambda row: row.seconds_training),
        seconds_answering=mean(lambda row: row.seconds_answering),
        tokens_training=mean(lambda row: row.tokens_training),
        tokens_context=mean(lambda row: row.tokens_context),
        documents_used=mean(lambda row: row.used),
        distinct_documents=mean(lambda row: row.distinct),
        distinct_sources=mean(lambda row: math.nan if row.sources is None else row.sources),
        redundancy=mean(lambda row: row.redundancy),
        peak_memory=max((row.peak_memory for row in done if row.peak_memory), default=None),
    )


def _perplexity(bits: float, tokens: int) -> float:
    try:
        return 2.0 ** (bits / tokens) if tokens else math.nan
    except OverflowError:
        return math.inf


def _mean_score(name: str, rows: Sequence[Row]) -> float:
    return float(np.mean([row.scores[name] for row in rows]))


def _score_error(name: str, rows: Sequence[Row]) -> float:
    scores = [row.scores[name] for row in rows]
    return ratio_standard_error(scores, [1.0] * len(rows), [row.cluster for row in rows])


def _percent_of_base(scored: Sequence[Row], base: Mapping[str, Row]) -> tuple[float, float]:
    """Return all bits in percent of the base model's, and the standard error.

    The scored bytes are the same, so this is also the ratio of bits per byte.
    """
    paired = [row for row in scored if row.prompt in base]
    if not paired:
        return math.nan, math.nan
    bits = [row.bits for row in paired]
    base_bits = [base[row.prompt].bits for row in paired]
    if sum(base_bits) <= 0:
        return math.nan, math.nan
    error = ratio_standard_error(bits, base_bits, [row.cluster for row in paired])
    return 100 * sum(bits) / sum(base_bits), 100 * error
