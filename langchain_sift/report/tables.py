"""Define the columns of the method tables, and format numbers and settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from langchain_sift.report.metrics import ACCURACY, ACCURACY_BY_LENGTH, ANSWER_HIT
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary

GAP = "\N{NO-BREAK SPACE}"
_MEBI = 2**20
_ERROR_MEANING = (
    "Standard error of the column to its left, over sources of prompts, as for a ratio of two sums "
    "(Cochran 1977, Sampling Techniques, eq. 6.9). It is 0 for the base model in percent of itself."
)
_ERROR = f"±{GAP}s.e."

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        PERCENT_OF_BASE: "% of base",
        "ndcg": "nDCG",
        "mrr": "MRR",
        "hit": "hit rate",
        "alpha_ndcg": "α-nDCG",
        "intent_recall": "intent recall",
        ANSWER_HIT: "answer found",
        ACCURACY_BY_LENGTH: "accuracy by length",
    }
)
_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "ndcg": "Normalized discounted cumulative gain of the retrieved documents, mean over "
        "prompts: 1 if the most relevant ones come first. Linear gains, as in trec_eval.",
        "recall": "Fraction of the relevant documents that were retrieved, mean over prompts.",
        "mrr": "1 over the rank of the first relevant document, 0 if none was retrieved: mean "
        "reciprocal rank.",
        "hit": "Fraction of the prompts with at least one relevant document among the retrieved.",
        "alpha_ndcg": "nDCG in which a document counts half for each earlier document that serves "
        "the same intent of the prompt (α = 0.5; Clarke et al., 2008).",
        "intent_recall": "Fraction of a prompt's intents that the retrieved documents serve.",
        ANSWER_HIT: "Fraction of the prompts with an answer in one of the retrieved documents, "
        "word by word.",
        "f1": "Mean overlap of the words of answer and reference, their F1. In a script without "
        "spaces between words, of the characters.",
        ACCURACY: "Fraction of the prompts whose correct choice is the likeliest.",
        ACCURACY_BY_LENGTH: "Fraction of the prompts whose correct choice has the highest "
        "log-likelihood per character (acc_norm of lm-evaluation-harness).",
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of methods."""

    heading: str
    meaning: str
    value: Callable[[MethodSummary], float]
    """Value of a method; NaN if there is none."""

    decimals: int
    kind: str
    """Group of columns: "quality", "time", "seconds", "tokens", "documents", "memory" or
    "failures"."""

    brief: bool = False
    """If True, the column is part of compact tables, too."""


def _column(
    field: str, heading: str, decimals: int, kind: str, meaning: str, *, brief: bool = False
) -> Column:
    return Column(heading, meaning, attrgetter(field), decimals, kind, brief)


_QUALITY = (
    _column(
        "bits_per_byte", "bits/byte", 3, "quality",
        "Negative log-likelihood of the scored texts under the model, in bits per byte of UTF-8: "
        "the sum of all bits over the sum of all bytes, so long texts weigh more. Lower is better.",
    ),
    _column(
        "percent_of_base", "% of base", 1, "quality",
        "Bits per byte in percent of the base model's on the same prompts. Below 100, the "
        "documents helped.", brief=True,
    ),
    _column("standard_error", _ERROR, 1, "quality", _ERROR_MEANING, brief=True),
    _column(
        "perplexity", "perplexity", 2, "quality",
        "2 to the power of the mean bits per token of the scored texts. Lower is better.",
    ),
)  # fmt: skip
_DOCUMENTS = (
    _column(
        "documents_used", "documents", 1, "documents",
        "Mean number of documents that were trained on, that fitted the context, or that were "
        "retrieved, repeats included.", brief=True,
    ),
    _column(
        "distinct_documents", "distinct", 1, "documents",
        "Mean number of different documents among them.", brief=True,
    ),
    _column(
        "distinct_sources", "sources", 1, "documents",
        "Mean number of different sources among them, such as files. A document without a source "
        "is a source by itself.", brief=True,
    ),
    _column(
        "redundancy", "redundancy", 2, "documents",
        "Mean over all choices but the first of the highest cosine with an earlier choice. 1 means "
        "that each document repeats an earlier one.", brief=True,
    ),
)  # fmt: skip
_MEMORY_AND_FAILURES = (
    Column(
        "peak MiB", "Peak memory that PyTorch allocated on the GPU, the highest of all prompts.",
        lambda summary: summary.peak_memory / _MEBI if summary.peak_memory else math.nan, 0,
        "memory",
    ),
    _column(
        "failures", "failures", 0, "failures",
        "Prompts without a result under this method. They count in no other column.", brief=True,
    ),
)  # fmt: skip
_COSTS = (
    _column(
        "seconds", "seconds", 2, "seconds",
        "Mean over prompts of retrieval, training and answering together.", brief=True,
    ),
    _column(
        "seconds_retrieval", "retrieval", 2, "seconds",
        "Seconds for the search for candidates and the choice among them.",
    ),
    _column(
        "seconds_training", "training", 2, "seconds",
        "Seconds for fine-tuning on the chosen documents.",
    ),
    _column(
        "seconds_answering", "answering", 2, "seconds",
        "Seconds for running the model on the prompt and generating its answer.",
    ),
    _column(
        "tokens_training", "trained tokens", 0, "tokens",
        "Mean number of tokens that were trained on.",
    ),
    _column(
        "tokens_context", "context tokens", 0, "tokens",
        "Mean number of tokens before the scored text or the answer.",
    ),
    *_DOCUMENTS,
    *_MEMORY_AND_FAILURES,
)  # fmt: skip
_COSTS_OF_RETRIEVAL = (
    Column(
        "ms", "Mean milliseconds for the search for candidates and the choice among them, the "
        "embedding of the query included.", lambda summary: 1000 * summary.seconds, 1, "time",
        brief=True,
    ),
    *_DOCUMENTS,
    *_MEMORY_AND_FAILURES,
)  # fmt: skip


def columns(summaries: Iterable[MethodSummary], *, brief: bool = False) -> list[Column]:
    """Return the columns in which at least one method has a value.

    Args:
        summaries: The summaries of the methods.
        brief: If True, return only the columns of compact tables.
    """
    methods = list(summaries)
    answers = any(summary.seconds_training or summary.seconds_answering for summary in methods)
    metrics = dict.fromkeys(metric for summary in methods for metric in summary.scores)
    scores = [column for metric in metrics for column in _score_columns(metric)]
    return [
        column
        for column in (*scores, *_QUALITY, *(_COSTS if answers else _COSTS_OF_RETRIEVAL))
        if (column.brief or not brief)
        and any(math.isfinite(column.value(summary)) for summary in methods)
        and (column.heading != "failures" or any(summary.failures for summary in methods))
    ]


def _score_columns(metric: str) -> tuple[Column, Column]:
    return (
        Column(
            metric_name(metric),
            _MEANINGS.get(metric, f"Mean {metric} of the answers. Higher is better."),
            lambda summary: summary.scores.get(metric, math.nan),
            3,
            "quality",
            brief=True,
        ),
        Column(
            _ERROR,
            _ERROR_MEANING,
            lambda summary: summary.score_errors.get(metric, math.nan),
            3,
            "quality",
        ),
    )


def format_number(value: float, decimals: int) -> str:
    """Format a number; a dash if it is NaN or infinite."""
    return f"{value:z,.{decimals}f}" if math.isfinite(value) else "–"


def format_signed(value: float, decimals: int) -> str:
    """Format a number so that its sign survives rounding, with a typographic minus."""
    text = format_number(value, decimals)
    if value and text == format_number(0.0, decimals):
        text = f"{value:.1g}"  # rounded to 0, the end of an interval would seem to touch it
    return text.replace("-", "\N{MINUS SIGN}")


def format_difference(value: float, metric: str) -> str:
    """Format a difference in a metric, with its sign."""
    text = format_signed(value, decimals_of(metric))
    return f"+{text}" if value > 0 else text


def decimals_of(metric: str) -> int:
    """Return the number of decimals that a metric is shown with."""
    return 1 if metric == PERCENT_OF_BASE else 3


def metric_name(metric: str) -> str:
    """Return the name of a metric in tables and plots."""
    return _NAMES.get(metric, metric)


def format_setting(value: object) -> str:
    """Format a setting as a line."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)
