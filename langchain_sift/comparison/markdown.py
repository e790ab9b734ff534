"""A report in words and tables: what the page says too, and all of it as GitHub Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import attrgetter
from typing import Any

from langchain_sift.comparison.methods import BASE, MODES
from langchain_sift.comparison.results import PERCENT_OF_BASE, MethodSummary, Report
from langchain_sift.comparison.statistics import Difference, Interval

_MAIN = 6  # methods that are compared each with each
_MEBI = 2**20
_GAP = "\N{NO-BREAK SPACE}"
_ERROR_MEANING = (
    "Standard error of what stands before it, over sources of prompts, as of a ratio of two sums "
    "(Cochran 1977, Sampling Techniques). Of a percentage of itself the base model has none: 0."
)
_ERROR = f"±{_GAP}s.e."


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


@dataclass(frozen=True, slots=True)
class Finding:
    """What one protocol found."""

    protocol: str
    verdict: str
    best: str | None
    differences: Mapping[str, tuple[Difference, ...]]
    """By metric, the most telling first."""

    correlations: Mapping[str, Interval]
    """Of σ and the percentage of base that is left, by method."""


def find(report: Report) -> list[Finding]:
    """Return what each protocol found: this takes the most time of all that a report needs."""
    return [_find(report, protocol) for protocol in report.protocols]


def _find(report: Report, protocol: str) -> Finding:
    # All that follows is about the largest k; fewer rows are looked through sooner.
    narrow = replace(report, rows=tuple(report.select(protocol)))
    metrics = narrow.metrics(protocol)
    ranked = _ranked(narrow, protocol, metrics[0]) if metrics else []
    correlations = {
        method: interval
        for method in narrow.methods
        if (interval := narrow.uncertainty_correlation(protocol, method)) is not None
        and math.isfinite(interval.value)
    }
    return Finding(
        protocol,
        verdict(narrow, protocol),
        ranked[0] if ranked else None,
        {
            metric: _differences(narrow, protocol, metric, pairs=metric == metrics[0])
            for metric in metrics
        },
        correlations,
    )


def _ranked(report: Report, protocol: str, metric: str) -> list[str]:
    """Return the methods that have a metric, the best first."""
    values = {
        method: -summary.percent_of_base
        if metric == PERCENT_OF_BASE
        else summary.scores.get(metric, math.nan)
        for method, summary in report.summary(protocol).items()
    }
    known = [method for method, value in values.items() if math.isfinite(value)]
    return sorted(known, key=values.__getitem__, reverse=True)


def _differences(
    report: Report, protocol: str, metric: str, *, pairs: bool
) -> tuple[Difference, ...]:
    """Return each method against base, and, where wanted, the main methods each with each.

    Main are the best of those without options, and the best of all. SIFT is compared with nearest
    neighbors in any case.
    """
    ranked = _ranked(report, protocol, metric)
    asked = [(method, BASE) for method in ranked if method != BASE]
    if pairs:
        others = [method for method in ranked if method != BASE]
        plain = [method for method in others if method.count(":") < 2]  # noqa: PLR2004
        main = list(dict.fromkeys((*others[:1], *plain)))[:_MAIN]
        asked += combinations(main, 2)
        rivals = [(f"{mode}:sift", f"{mode}:nearest") for mode in MODES]
        asked += [
            pair for pair in rivals if {*pair} <= {*others} and not {pair, pair[::-1]} & {*asked}
        ]
    found = (report.difference(protocol, *pair, metric=metric) for pair in asked)
    return tuple(one for one in found if one is not None)


def verdict(report: Report, protocol: str) -> str:
    """Return what a protocol found in one sentence: the best method, and if that is certain."""
    metric = next(iter(report.metrics(protocol)), None)
    ranked = _ranked(report, protocol, metric) if metric else []
    if metric is None or len(ranked) < 2:  # noqa: PLR2004
        return "There are no two methods to compare: the base model and one other must be scored."
    best, runner_up = ranked[:2]
    summary = report.summary(protocol)[best]
    if best == BASE:
        closest = _against(report, metric, protocol, (best, runner_up), "the closest")
        return f"No method improved on the base model: it is {closest}."
    has = (
        f"{number(summary.percent_of_base, 1)}{_GAP}% of the base model's bits per byte"
        if metric == PERCENT_OF_BASE
        else f"{metric} {number(summary.scores[metric], 3)}"
    )
    sentence = f"{best} is best, with {has}"
    if BASE in ranked:
        sentence += f": {_against(report, metric, protocol, (best, BASE), '')}"
    if runner_up != BASE:
        joint = ", and " if BASE in ranked else ": "
        sentence += (
            f"{joint}{_against(report, metric, protocol, (best, runner_up), 'the runner-up')}"
        )
    return f"{sentence}."


def _against(
    report: Report, metric: str, protocol: str, methods: tuple[str, str], role: str
) -> str:
    """Return by how much one method is better than another, and if that is certain."""
    name = f"{role} ({methods[1]})" if role else "the base model"
    difference = report.difference(protocol, *methods, metric=metric)
    if difference is None:
        return f"not to be told from {name}, since no prompt was measured with both"
    sign = -1 if metric == PERCENT_OF_BASE else 1
    sign = -sign if difference.verdict == "worse" else sign
    decimals, unit = (1, " points") if metric == PERCENT_OF_BASE else (3, "")
    interval = difference.interval
    gain = f"{minus(sign * interval.value, decimals)}{unit}"
    if not math.isfinite(interval.low):
        return f"not to be told from {name}, since one source of prompts gives no interval"
    ends = sorted((sign * interval.low, sign * interval.high))
    gain += f" (95{_GAP}% interval {' to '.join(minus(end, decimals) for end in ends)})"
    if difference.verdict != "cannot tell":
        where = "" if difference.verdict == "better" else "on the prompts of both "
        return f"{where}{difference.verdict} than {name} by {gain}"
    needed = difference.prompts_needed
    settled = f"about {needed:,} would settle it" if needed else "they may be the same"
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


def without_leaks(report: Report, protocol: str) -> str:
    """Return the verdict on the prompts of which the store does not hold the scored text."""
    kept = [row for row in report.select(protocol) if row.prompt not in report.leaks]
    return verdict(replace(report, rows=tuple(kept)), protocol)


def minus(value: float, decimals: int) -> str:
    """Return a number with a minus that is as wide as a plus."""
    return number(value, decimals).replace("-", "\N{MINUS SIGN}")


def signed(value: float, metric: str) -> str:
    """Return a difference in a metric: in points of percent of base, or of the metric."""
    text = f"{value:+z.{decimals_of(metric)}f}" if math.isfinite(value) else "–"
    return text.replace("-", "\N{MINUS SIGN}")


def number(value: float, decimals: int) -> str:
    """Return a number as tables show it; a dash where there is none."""
    return f"{value:z,.{decimals}f}" if math.isfinite(value) else "–"


def setting(value: object) -> str:
    """Return a setting as one line."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)


def markdown(
    report: Report, findings: Sequence[Finding], plots: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """Return a report as GitHub Markdown.

    Args:
        report: What to write.
        findings: What `find` found in it.
        plots: For each protocol the plots' titles and paths, relative to the file.
    """
    prompts = len(dict.fromkeys(row.prompt for row in report.rows))
    parts = [f"# Comparison of {len(report.methods)} methods on {prompts} prompts"]
    for one in findings:
        said = f"{one.verdict} {failures(report, one.protocol)}"
        parts.append(f"**{_cell(one.protocol)}**: {_cell(said)}")
    if report.leaks:
        parts.append(f"**Leaks**: {leaks_told(report)}")
    for finding in findings:
        parts += _section(report, finding, plots.get(finding.protocol, ()))
    if report.leaks:
        found = [[prompt, what] for prompt, what in report.leaks.items()]
        parts += ["## Leaks", leaks_told(report)]
        parts += [
            f"Without these prompts, {_cell(one.protocol)}: "
            f"{_cell(without_leaks(report, one.protocol))}"
            for one in findings
        ]
        parts.append(_table(["prompt", "what the store holds of it"], found, left=2))
    if report.settings:
        settings = [[name, setting(value)] for name, value in report.settings.items()]
        parts += ["## Settings", _table(["setting", "value"], settings, left=2)]
    return "\n\n".join(parts) + "\n"


def _section(report: Report, finding: Finding, plots: Sequence[tuple[str, str]]) -> list[str]:
    protocol, ks = finding.protocol, report.ks
    parts = [f"## Protocol {_cell(protocol)}"]
    if ks:
        parts.append(f"With {ks[-1]} documents, {report.prompts(protocol)} prompts:")
    parts.append(_methods(report.summary(protocol)))
    for k in ks[:-1]:
        parts += [f"### With {k} documents", _methods(report.summary(protocol, k=k), brief=True)]
    by_group = groups_of(report, protocol)
    if by_group:
        parts += ["### By group", _groups_table(report, protocol, by_group)]
    for metric, differences in finding.differences.items():
        if differences:
            parts += [f"### Differences in {metric_name(metric)}", _differences_table(differences)]
    if finding.correlations:
        rows = [
            [f"`{method}`", minus(one.value, 2), f"{minus(one.low, 2)} to {minus(one.high, 2)}"]
            for method, one in finding.correlations.items()
        ]
        parts += ["### σ after the last document against % of base"]
        parts.append(_table(["method", "Spearman's ρ", "95 % interval"], rows))
    parts += [f"![{title}]({path})" for title, path in plots]
    return parts


def leaks_told(report: Report) -> str:
    """Return of how many prompts the store holds the scored text."""
    prompts = len({row.prompt for row in report.rows})
    return f"the store holds the scored text of {len(report.leaks)} of {prompts} prompts."


def groups_of(report: Report, protocol: str) -> dict[str, Mapping[str, MethodSummary]]:
    """Return the summaries of each group, of several groups."""
    groups = [group for group in report.groups if report.prompts(protocol, group)]
    if len(groups) < 2:  # noqa: PLR2004
        return {}
    return {group: report.summary(protocol, group) for group in groups}


def quality(summary: MethodSummary | None, metric: str) -> tuple[float, float]:
    """Return a metric of a summary, and its standard error; NaN where it was not measured."""
    if summary is None:
        return math.nan, math.nan
    if metric == PERCENT_OF_BASE:
        return summary.percent_of_base, summary.standard_error
    return summary.scores.get(metric, math.nan), summary.score_errors.get(metric, math.nan)


def decimals_of(metric: str) -> int:
    """Return how many decimals a metric is shown with."""
    return 1 if metric == PERCENT_OF_BASE else 3


def _groups_table(
    report: Report, protocol: str, by_group: Mapping[str, Mapping[str, MethodSummary]]
) -> str:
    metric = next(iter(report.metrics(protocol)), PERCENT_OF_BASE)
    places = decimals_of(metric)
    rows = []
    for method in report.summary(protocol):
        values = [quality(own.get(method), metric) for own in by_group.values()]
        cells = [f"{number(value, places)} ± {number(error, places)}" for value, error in values]
        rows.append([f"`{method}`", *cells])
    heads = [f"{group} ({report.prompts(protocol, group)})" for group in by_group]
    return _table([metric_name(metric), *heads], rows)


def metric_name(metric: str) -> str:
    """Return how a metric is called in words."""
    return "% of base" if metric == PERCENT_OF_BASE else metric


def _methods(summaries: Mapping[str, MethodSummary], *, brief: bool = False) -> str:
    shown = columns(summaries.values(), brief=brief)
    rows = [
        [f"`{method}`", *(number(column.of(summary), column.decimals) for column in shown)]
        for method, summary in summaries.items()
    ]
    return _table(["method", *(column.heading for column in shown)], rows)


def _differences_table(differences: Iterable[Difference]) -> str:
    rows = [
        [
            f"`{one.first}`",
            f"`{one.second}`",
            signed(one.interval.value, one.metric),
            f"{signed(one.interval.low, one.metric)} to {signed(one.interval.high, one.metric)}",
            one.verdict,
            str(one.prompts),
            "" if one.prompts_needed is None else f"{one.prompts_needed:,}",
        ]
        for one in differences
    ]
    heads = ["method", "against", "difference", "95 % interval", "verdict", "prompts", "needed"]
    return _table(heads, rows, left=2)


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    marks = ["---"] * left + ["--:"] * (len(headings) - left)
    lines = [headings, marks, *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value on one line in which nothing is markup but code."""
    text = _GAP.join(" ".join(part.split()) for part in str(value).split(_GAP))
    for special, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(special, safe)
    return text
