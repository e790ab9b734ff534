"""Compare the methods of a protocol: differences, correlations, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from langchain_sift.report.intervals import Difference, Interval, judge, ratio_interval
from langchain_sift.report.metrics import RETRIEVAL_METRICS
from langchain_sift.report.rows import BASE, DOCUMENT_MODES, Row, selection_of
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, quality, rank_methods
from langchain_sift.report.tables import (
    GAP,
    decimals_of,
    format_number,
    format_signed,
    metric_name,
)

_MAIN_METHODS = 6  # compared each with each
_NAMED_METHODS = 3  # of those that are significantly better than the baseline
_BASELINES = (BASE, "nearest", "rag:nearest")

UNSCORED_ANSWERS = (
    "The answers are not scored: read them in the list of prompts, or provide reference answers "
    "or a scorer."
)
TOO_FEW_METHODS = "Nothing can be compared: fewer than two methods have a score."


@dataclass(frozen=True, slots=True)
class Finding:
    """The findings of a protocol, for the largest k."""

    protocol: str
    verdict: str
    """Best method and its differences to the base model and the runner-up, in words."""

    verdict_without_leaks: str
    """Verdict on the prompts that do not leak; empty if none leaks or leaks are excluded."""

    failures: str
    """Methods that failed and on how many prompts, in words; empty if none failed."""

    best: str | None
    """Method with the best mean; None if no method has a score."""

    differences: Mapping[str, tuple[Difference, ...]]
    """Differences by metric, the most important first."""

    correlations: Mapping[str, Interval]
    """Rank correlation of σ with percent of base, by method."""


def difference_of(
    rows: Sequence[Row], first: str, second: str, *, metric: str, limit: float
) -> Difference | None:
    """Compare two methods on the prompts that both were measured on.

    Args:
        rows: Rows of one protocol and one k.
        first: A method.
        second: Another method.
        metric: `PERCENT_OF_BASE`, or a metric of the answers.
        limit: Largest possible difference in the metric.

    Returns:
        First minus second; None if no prompt was measured with both.
    """
    measured = {
        method: {row.prompt: row for row in rows if row.method == method and not row.failure}
        for method in (first, second, BASE)
    }
    is_percent = metric == PERCENT_OF_BASE
    common = [
        prompt
        for prompt, row in measured[first].items()
        if prompt in measured[second]
        and math.isfinite(_value(row, metric))
        and math.isfinite(_value(measured[second][prompt], metric))
        and (prompt in measured[BASE] or not is_percent)
    ]
    weights = [measured[BASE][prompt].bits / 100 if is_percent else 1.0 for prompt in common]
    if not common or not sum(weights) > 0:
        return None
    interval = ratio_interval(
        [
            _value(measured[first][prompt], metric) - _value(measured[second][prompt], metric)
            for prompt in common
        ],
        weights,
        [measured[first][prompt].cluster for prompt in common],
    )
    return judge(
        first,
        second,
        metric,
        interval,
        prompts=len(common),
        lower_is_better=is_percent,
        limit=limit,
    )


def _value(row: Row, metric: str) -> float:
    return row.bits if metric == PERCENT_OF_BASE else row.scores.get(metric, math.nan)


def uncertainty_and_gain(rows: Sequence[Row], method: str) -> list[tuple[float, float, str]]:
    """Return σ after the last choice, percent of base, and the cluster of each prompt."""
    base = {row.prompt: row.bits for row in rows if row.method == BASE and not row.failure}
    return [
        (row.posterior_std, 100 * row.bits / base[row.prompt], row.cluster)
        for row in rows
        if row.method == method
        and not row.failure
        and base.get(row.prompt, 0.0) > 0
        and math.isfinite(row.posterior_std)
        and math.isfinite(row.bits)
    ]


def baseline_of(methods: Collection[str]) -> str | None:
    """Return the method that all others are compared with; None if there is none.

    The base model, or nearest neighbors where no model answers.
    """
    return next((name for name in _BASELINES if name in methods), None)


def compared_pairs(ranked: Sequence[str], *, each_with_each: bool) -> list[tuple[str, str]]:
    """Return the pairs of methods whose differences a report shows.

    Args:
        ranked: All methods with a score, the best first.
        each_with_each: If True, compare the main methods each with each, and SIFT with nearest
            neighbors, and a method with `context_k` with the same one without, in addition to
            each method with the baseline. The main methods are the best of all and the best
            without options.
    """
    baseline = baseline_of(ranked)
    others = [method for method in ranked if method != baseline]
    pairs = [] if baseline is None else [(method, baseline) for method in others]
    if each_with_each:
        without_options = [method for method in others if not _has_options(method)]
        main = list(dict.fromkeys((*others[:1], *without_options)))[:_MAIN_METHODS]
        pairs += combinations(main, 2)
        wanted = [(f"{mode}:sift", f"{mode}:nearest") for mode in DOCUMENT_MODES]
        wanted += [(method, _with_all_in_prompt(method)) for method in others]
        for pair in wanted:
            is_new = pair[0] != pair[1] and not {pair, pair[::-1]} & {*pairs}
            if is_new and {*pair} <= {*others}:
                pairs.append(pair)
    return pairs


def _with_all_in_prompt(method: str) -> str:
    """Return the name of the same method without a limit for the documents in the prompt."""
    mode, _, selection = method.partition(":")
    return f"{mode}:{selection_of(method)}" if selection and mode in DOCUMENT_MODES else method


def _has_options(method: str) -> bool:
    return ":" in selection_of(method) or method.count(":") > 1


def verdict(
    summaries: Mapping[str, MethodSummary],
    metric: str,
    difference: Callable[[str, str], Difference | None],
    *,
    k: int = 0,
) -> str:
    """Name the best method of a protocol, and state how certain that is.

    Args:
        summaries: The summary of each method.
        metric: The metric that decides.
        difference: Compares two methods in that metric.
        k: Number of documents, for metrics of retrieved documents.
    """
    ranked = rank_methods(summaries, metric)
    if len(ranked) < 2:
        return f"{TOO_FEW_METHODS}{_no_answers(summaries)}"
    best, runner_up = ranked[:2]
    baseline = baseline_of(ranked)
    name = "the base model" if baseline == BASE else str(baseline)
    against = {
        rival: difference(best, rival)
        for rival in dict.fromkeys((baseline, runner_up))
        if rival is not None and rival != best
    }
    if best == baseline:
        closest = _against(against[runner_up], f"the closest ({runner_up})")
        return f"No method improved on {name}: it is {closest}.{_no_answers(summaries)}"
    better = []
    if baseline is not None and not _is_better(against[baseline]):
        others = [method for method in ranked if method not in {best, baseline}]
        better = [method for method in others if _is_better(difference(method, baseline))]
    comparisons = [
        _against(difference, name if rival == baseline else f"the runner-up ({rival})")
        for rival, difference in against.items()
        if rival == baseline or not better
    ]
    is_best = "is best" if all(map(_is_better, against.values())) else "has the best mean"
    sentence = f"{best} {is_best}, with {_score(summaries[best], metric, k)}: "
    sentence += f"{', and '.join(comparisons)}."
    if better:
        sentence += f" Significantly better than {name}: {_enumerate(better)}."
    return sentence + _no_answers(summaries)


def verdict_without_difference(summaries: Mapping[str, MethodSummary], metric: str) -> str:
    """State that a metric has the same value in all rows.

    Args:
        summaries: The summary of each method.
        metric: The metric.
    """
    ranked = rank_methods(summaries, metric)
    if len(ranked) < 2:
        return f"{TOO_FEW_METHODS}{_no_answers(summaries)}"
    value = format_number(quality(summaries[ranked[0]], metric)[0], decimals_of(metric))
    return (
        f"There is no difference in {metric_name(metric)}: it is {value} for all methods on each "
        f"prompt.{_no_answers(summaries)}"
    )


def _no_answers(summaries: Mapping[str, MethodSummary]) -> str:
    """Return a warning if no answer of any method shares a word with a reference."""
    scores = [summary.scores["f1"] for summary in summaries.values() if "f1" in summary.scores]
    return " No method answered a question: F1 is 0 for all." if scores and not any(scores) else ""


def _is_better(difference: Difference | None) -> bool:
    return difference is not None and difference.verdict == "better"


def _score(summary: MethodSummary, metric: str, k: int) -> str:
    if metric == PERCENT_OF_BASE:
        percent = format_number(summary.percent_of_base, 1)
        return f"{percent}{GAP}% of the base model's bits per byte"
    name = f"{metric_name(metric)}@{k}" if metric in RETRIEVAL_METRICS and k else metric
    return f"{name} {format_number(summary.scores[metric], 3)}"


def _enumerate(methods: Sequence[str]) -> str:
    """Return the first methods, and the number of the others."""
    more = f" and {len(methods) - _NAMED_METHODS} more" if len(methods) > _NAMED_METHODS else ""
    return f"{', '.join(methods[:_NAMED_METHODS])}{more}"


def _against(difference: Difference | None, name: str) -> str:
    """State how much better one method is than another, and how certain that is."""
    if difference is None:
        return f"not comparable with {name} (no prompt was measured with both)"
    interval = difference.interval
    if not math.isfinite(interval.low):
        reason = "a single source of prompts gives"
        if interval.clusters > 1:
            reason = f"{interval.clusters} sources of prompts with the same difference give"
        return f"not distinguishable from {name} ({reason} no interval)"
    gain = _gain(difference)
    if difference.verdict == "better":
        return f"better than {name} by {gain}"
    if difference.verdict == "worse":
        return f"worse than {name} by {gain} on the prompts measured with both"
    needed = difference.prompts_needed
    outlook = f"about {needed:,} prompts would settle it" if needed else "they may be equal"
    if difference.too_few:
        outlook = f"prompts from {interval.clusters} sources are too few for a decision"
    return (
        f"not distinguishable from {name} on {difference.prompts} prompts, with a gain of {gain}; "
        f"{outlook}"
    )


def _gain(difference: Difference) -> str:
    """Return the size of a difference and its interval; positive in favor of the better method."""
    is_percent = difference.metric == PERCENT_OF_BASE
    sign = -1 if is_percent else 1
    sign = -sign if difference.verdict == "worse" else sign
    decimals, unit = decimals_of(difference.metric), " points" if is_percent else ""
    interval = difference.interval
    low, high = sorted((sign * interval.low, sign * interval.high))
    ends = f"{format_signed(low, decimals)} to {format_signed(high, decimals)}"
    return f"{format_signed(sign * interval.value, decimals)}{unit} (95{GAP}% interval {ends})"


def describe_failures(summaries: Mapping[str, MethodSummary], prompts: int) -> str:
    """Return the methods that failed and on how many prompts, in words; empty if none did."""
    failed = [
        f"{method} on {summary.failures} of {prompts}"
        for method, summary in summaries.items()
        if summary.failures
    ]
    return f"Failed: {', '.join(failed)} prompts." if failed else ""
