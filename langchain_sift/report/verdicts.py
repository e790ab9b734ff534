"""What a protocol found in a sentence, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from langchain_sift.report.intervals import Difference
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import PERCENT_OF_BASE
from langchain_sift.report.wording import GAP, decimals_of, minus, number

_NAMED = 3  # of the methods that are certainly better than the base model


def ranked_methods(report: Report, protocol: str, metric: str) -> list[str]:
    """Return the methods that have a metric, the best first."""
    values = {
        method: -summary.percent_of_base
        if metric == PERCENT_OF_BASE
        else summary.scores.get(metric, math.nan)
        for method, summary in report.summary(protocol).items()
    }
    known = [method for method, value in values.items() if math.isfinite(value)]
    return sorted(known, key=values.__getitem__, reverse=True)


def verdict(report: Report, protocol: str) -> str:
    """Return what a protocol found in a sentence or two: the best method, and if it is certain."""
    metric = next(iter(report.metrics(protocol)), None)
    ranked = ranked_methods(report, protocol, metric) if metric else []
    if metric is None and any(row.answer is not None for row in report.select(protocol)):
        return (
            "There is nothing to judge the answers by: read them side by side, or give reference "
            "answers with the questions, or a scorer."
        )
    if metric is None or len(ranked) < 2:
        return "There are no two methods to compare: the base model and one other must be scored."
    best, runner_up = ranked[:2]
    against = {
        rival: report.difference(protocol, best, rival, metric=metric)
        for rival in dict.fromkeys((BASE, runner_up))
        if rival in ranked and rival != best
    }
    if best == BASE:
        closest = _against(against[runner_up], f"the closest ({runner_up})")
        return f"No method improved on the base model: it is {closest}."
    certain = []
    if BASE in against and not _better(against[BASE]):
        others = [method for method in ranked if method not in {best, BASE}]
        certain = [
            m for m in others if _better(report.difference(protocol, m, BASE, metric=metric))
        ]
    told = [
        _against(difference, "the base model" if rival == BASE else f"the runner-up ({rival})")
        for rival, difference in against.items()
        if rival == BASE or not certain
    ]
    is_best = "is best" if all(map(_better, against.values())) else "has the best mean"
    summary = report.summary(protocol)[best]
    has = (
        f"{number(summary.percent_of_base, 1)}{GAP}% of the base model's bits per byte"
        if metric == PERCENT_OF_BASE
        else f"{metric} {number(summary.scores[metric], 3)}"
    )
    sentence = f"{best} {is_best}, with {has}: {', and '.join(told)}."
    return (
        f"{sentence} Certainly better than the base model: {_few(certain)}."
        if certain
        else sentence
    )


def _better(difference: Difference | None) -> bool:
    return difference is not None and difference.verdict == "better"


def _few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _against(difference: Difference | None, name: str) -> str:
    """Return by how much one method is better than another, and if that is certain."""
    if difference is None:
        return f"not to be told from {name}, since no prompt was measured with both"
    percent = difference.metric == PERCENT_OF_BASE
    sign = -1 if percent else 1
    sign = -sign if difference.verdict == "worse" else sign
    decimals, unit = decimals_of(difference.metric), " points" if percent else ""
    interval = difference.interval
    gain = f"{minus(sign * interval.value, decimals)}{unit}"
    if not math.isfinite(interval.low):
        return f"not to be told from {name}, since one source of prompts gives no interval"
    ends = sorted((sign * interval.low, sign * interval.high))
    gain += f" (95{GAP}% interval {' to '.join(minus(end, decimals) for end in ends)})"
    if difference.verdict != "cannot tell":
        where = "" if difference.verdict == "better" else "on the prompts of both "
        return f"{where}{difference.verdict} than {name} by {gain}"
    needed = difference.prompts_needed
    settled = f"about {needed:,} would settle it" if needed else "they may be the same"
    if difference.too_few:
        settled = f"prompts of {interval.clusters} sources are too few to tell"
    return (
        f"not to be told from {name} on {difference.prompts} prompts, with a gain of {gain}; "
        f"{settled}"
    )


def failures(report: Report, protocol: str) -> str:
    """Return which methods failed on how many prompts, or nothing."""
    prompts = report.prompts(protocol)
    failed = [
        f"{method} on {summary.failures} of {prompts}"
        for method, summary in report.summary(protocol).items()
        if summary.failures
    ]
    return f"Failed: {', '.join(failed)} prompts." if failed else ""


def leaks_told(report: Report) -> str:
    """Return of how many prompts the store holds the scored text, and if they were left out."""
    prompts = len(report.leaks.keys() | {row.prompt for row in report.rows})
    told = f"the store holds the scored text of {len(report.leaks)} of {prompts} prompts"
    return f"{told}: those are left out." if report.leaks_left_out else f"{told}."


def without_leaks(report: Report, protocol: str) -> str:
    """Return the verdict on the prompts of which the store does not hold the scored text."""
    kept = [row for row in report.select(protocol) if row.prompt not in report.leaks]
    return verdict(replace(report, rows=tuple(kept)), protocol)
