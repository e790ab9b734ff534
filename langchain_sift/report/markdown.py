"""A report as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_sift.report.findings import Finding
from langchain_sift.report.intervals import Difference
from langchain_sift.report.report import Report
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, quality
from langchain_sift.report.tables import columns
from langchain_sift.report.verdicts import failures, leaks_told, without_leaks
from langchain_sift.report.wording import (
    GAP,
    decimals_of,
    metric_name,
    minus,
    number,
    setting,
    signed,
)


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
            if not report.leaks_left_out
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
    by_group = report.summaries_by_group(protocol)
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
    text = GAP.join(" ".join(part.split()) for part in str(value).split(GAP))
    for special, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(special, safe)
    return text
