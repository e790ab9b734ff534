"""The columns of the tables in which methods stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

from langchain_sift.report.summaries import MethodSummary
from langchain_sift.report.wording import GAP

_MEBI = 2**20
_ERROR_MEANING = (
    "Standard error of what stands before it, over sources of prompts, as of a ratio of two sums "
    "(Cochran 1977, Sampling Techniques). Of a percentage of itself the base model has none: 0."
)
_ERROR = f"±{GAP}s.e."


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of methods."""

    heading: str
    meaning: str
    of: Callable[[MethodSummary], float]
    decimals: int
    kind: str
    """"quality", "seconds" or "use"."""

    brief: bool = False
    """Whether it is in compact tables too."""


def _column(
    field: str, heading: str, decimals: int, kind: str, meaning: str, *, brief: bool = False
) -> Column:
    return Column(heading, meaning, attrgetter(field), decimals, kind, brief)


_QUALITY = (
    _column(
        "bits_per_byte", "bits/byte", 3, "quality",
        "Negative log-likelihood of the scored texts under the model, in bits, over their length "
        "in bytes of UTF-8. It is all bits over all bytes, so that long texts weigh more. Lower is "
        "better.",
    ),
    _column(
        "percent_of_base", "% of base", 1, "quality",
        "Bits per byte in percent of the base model's on the same prompts. Below 100 the "
        "documents helped.", brief=True,
    ),
    _column(
        "standard_error", _ERROR, 1, "quality",
        _ERROR_MEANING,
        brief=True,
    ),
    _column(
        "perplexity", "perplexity", 2, "quality",
        "2 to the mean bits per token of the scored texts. Lower is better.",
    ),
)  # fmt: skip
_COSTS = (
    _column(
        "seconds", "seconds", 2, "seconds",
        "Mean over prompts of retrieval, training and answering together.", brief=True,
    ),
    _column(
        "seconds_retrieval", "retrieval", 2, "seconds",
        "Seconds for finding candidates and choosing among them.",
    ),
    _column(
        "seconds_training", "training", 2, "seconds",
        "Seconds for learning from the chosen documents.",
    ),
    _column(
        "seconds_answering", "answering", 2, "seconds",
        "Seconds for running the model on the prompt, and for its answer.",
    ),
    _column(
        "tokens_training", "trained tokens", 0, "use",
        "Mean number of tokens that were learned from.",
    ),
    _column(
        "tokens_context", "context tokens", 0, "use",
        "Mean number of tokens before the scored text or the answer.",
    ),
    _column(
        "documents_used", "documents", 1, "use",
        "Mean number of documents that were learned from, or that fitted into the context, "
        "repeats included.", brief=True,
    ),
    _column(
        "distinct_documents", "distinct", 1, "use",
        "Of these documents, how many were different ones.", brief=True,
    ),
    _column(
        "redundancy", "redundancy", 2, "use",
        "Mean over the choices after the first of the highest cosine with one before: 1 where "
        "each says again what another has said.",
    ),
    Column(
        "peak MiB", "Highest memory of all prompts: of the process, or of the model on a GPU.",
        lambda one: one.peak_memory / _MEBI if one.peak_memory else math.nan, 0, "use",
    ),
    _column(
        "failures", "failures", 0, "use",
        "Prompts that have no result under this method. They enter no other column.", brief=True,
    ),
)  # fmt: skip


def columns(summaries: Iterable[MethodSummary], *, brief: bool = False) -> list[Column]:
    """Return the columns in which at least one method has something.

    Args:
        summaries: The methods'.
        brief: Whether to leave out what only an exact look needs.
    """
    known = list(summaries)
    names = list(dict.fromkeys(name for one in known for name in one.scores))
    scores = [column for name in names for column in _score_columns(name)]
    return [
        column
        for column in (*scores, *_QUALITY, *_COSTS)
        if (column.brief or not brief)
        and any(math.isfinite(column.of(one)) for one in known)
        and (column.heading != "failures" or any(one.failures for one in known))
    ]


def _score_columns(name: str) -> tuple[Column, Column]:
    return (
        Column(
            name,
            f"Mean of {name} over the prompts' answers. Higher is better.",
            lambda one: one.scores.get(name, math.nan),
            3,
            "quality",
            brief=True,
        ),
        Column(
            _ERROR,
            _ERROR_MEANING,
            lambda one: one.score_errors.get(name, math.nan),
            3,
            "quality",
        ),
    )
