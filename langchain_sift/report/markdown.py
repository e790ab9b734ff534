"""Write a report as GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from langchain_sift.report.counts import counted
from langchain_sift.report.findings import Finding
from langchain_sift.report.intervals import Difference
from langchain_sift.report.report import Report
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, quality
from langchain_sift.report.tables import (
    GAP,
    columns,
    decimals_of,
    format_difference,
    format_number,
    format_setting,
    format_signed,
    metric_name,
)

# An underscore within a word is no markup. The last two begin a link in https:// and www.
_MARKUP = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|(?<=:)/(?=/)|(?<=www)\.", re.I)


def markdown(report: Report, plots: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """Return a report as GitHub Markdown.

    Args:
        report: The report.
        plots: Titles and paths of each protocol's plots; paths are relative to the file.
    """
    methods = counted(len(report.methods), "method")
    prompts = counted(len({row.prompt for row in report.rows}), "prompt")
    parts = [f"# Comparison of {methods} on {prompts}"]
    for protocol, finding in report.findings.items():
        parts.append(f"**{_plain(protocol)}**: {_plain(f'{finding.verdict} {finding.failures}')}")
    parts += [f"**Note**: {_plain(note)}" for note in report.notes]
    if report.leaks:
        parts.append(f"**Leaks**: {report.leak_notice}")
    for protocol, finding in report.findings.items():
        parts += _section(report, finding, plots.get(protocol, ()))
    if report.leaks:
        parts += _leaks(report)
    if report.settings:
        settings = [
            [_plain(name), _plain(format_setting(value))] for name, value in report.settings.items()
        ]
        parts += ["## Settings", _table(["setting", "value"], settings, left=2)]
    return "\n\n".join(parts) + "\n"


def _section(report: Report, finding: Finding, plots: Sequence[tuple[str, str]]) -> list[str]:
    protocol, ks = finding.protocol, report.ks
    parts = [f"## Protocol {_plain(protocol)}"]
    if ks:
        prompts = counted(report.prompts(protocol), "prompt")
        parts.append(f"With {counted(ks[-1], 'document')}, {prompts}:")
    parts.append(_methods_table(report.summary(protocol)))
    for k in ks[:-1]:
        summaries = report.summary(protocol, k=k)
        parts += [f"### With {counted(k, 'document')}", _methods_table(summaries, brief=True)]
    by_group = report.summaries_by_group(protocol)
    if by_group:
        parts += ["### By group", _groups_table(report, protocol, by_group)]
    for metric, differences in finding.differences.items():
        if differences:
            parts += [
                f"### Differences in {_plain(metric_name(metric))}",
                _differences_table(differences),
            ]
    if finding.correlations:
        rows = [
            [
                _code(method),
                format_signed(interval.value, 2),
                f"{format_signed(interval.low, 2)} to {format_signed(interval.high, 2)}",
            ]
            for method, interval in finding.correlations.items()
        ]
        parts.append("### σ after the last document against % of base")
        parts.append(_table(["method", "Spearman's ρ", "95 % interval"], rows))
    parts += [f"![{title}]({path})" for title, path in plots]
    return parts


def _leaks(report: Report) -> list[str]:
    verdicts = [
        f"Without these prompts, {_plain(protocol)}: {_plain(finding.verdict_without_leaks)}"
        for protocol, finding in report.findings.items()
        if finding.verdict_without_leaks
    ]
    leaks = [list(map(_plain, leak)) for leak in report.leaks.items()]
    table = _table(["prompt", "leak"], leaks, left=2)
    return ["## Leaks", report.leak_notice, *verdicts, table]


def _groups_table(
    report: Report, protocol: str, by_group: Mapping[str, Mapping[str, MethodSummary]]
) -> str:
    metric = next(iter(report.metrics(protocol)), PERCENT_OF_BASE)
    decimals = decimals_of(metric)
    rows = []
    for method in report.summary(protocol):
        values = [quality(summaries.get(method), metric) for summaries in by_group.values()]
        cells = [
            f"{format_number(value, decimals)} ± {format_number(error, decimals)}"
            for value, error in values
        ]
        rows.append([_code(method), *cells])
    headings = [f"{_plain(group)} ({report.prompts(protocol, group)})" for group in by_group]
    return _table([_plain(metric_name(metric)), *headings], rows)


def _methods_table(summaries: Mapping[str, MethodSummary], *, brief: bool = False) -> str:
    shown = columns(summaries.values(), brief=brief)
    rows = [
        [
            _code(method),
            *(format_number(column.value(summary), column.decimals) for column in shown),
        ]
        for method, summary in summaries.items()
    ]
    return _table(["method", *(_plain(column.heading) for column in shown)], rows)


def _differences_table(differences: Iterable[Difference]) -> str:
    rows = []
    for difference in differences:
        interval, metric = difference.interval, difference.metric
        needed = difference.prompts_needed
        low, high = (format_difference(end, metric) for end in (interval.low, interval.high))
        rows.append(
            [
                _code(difference.first),
                _code(difference.second),
                format_difference(interval.value, metric),
                f"{low} to {high}",
                difference.verdict,
                str(difference.prompts),
                "" if needed is None else f"{needed:,}",
            ]
        )
    headings = ["method", "against", "difference", "95 % interval", "verdict", "prompts", "needed"]
    return _table(headings, rows, left=2)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a table of cells in Markdown."""
    marks = ["---"] * left + ["--:"] * (len(headings) - left)
    lines = [headings, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(name: str) -> str:
    """Return a name as code, if it has no character that ends code or a cell."""
    return _plain(name) if set(name) & set("`|\\\n\r") else f"`{name}`"


def _plain(text: str) -> str:
    """Return a text on one line, with the markup of GitHub Markdown escaped, and web addresses.

    Addresses of mail stay links, and so does what GitHub adds to Markdown: `@name`, `#12`, `:tada:`
    and `$x$`.
    """
    text = _on_one_line(text)
    for special, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(special, safe)
    return _MARKUP.sub(r"\\\g<0>", text)


def _on_one_line(text: str) -> str:
    return GAP.join(" ".join(part.split()) for part in text.split(GAP))
