"""Print the report of a comparison as tables."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from langchain_sift.cli.app import echo_for_programs

if TYPE_CHECKING:
    from langchain_sift.report.report import Report

_MOST_REASONS = 3  # of rows without a result


def print_report(report: Report) -> None:
    """Print a report: tables and findings for a reader, and one line of JSON for programs."""
    console = Console()
    for protocol in report.protocols:
        for group in (None, *(report.groups if len(report.groups) > 1 else ())):
            console.print(_table(report, protocol, group))
        console.print(
            f"{protocol}: {report.findings[protocol].verdict}", markup=False, highlight=False
        )
    _print_failures(console, report)
    if report.leaks:
        advice = "" if report.leaks_excluded else " --leaks exclude leaves them out."
        console.print(f"leaks: {report.leak_notice}{advice}", highlight=False)
    console.print(f"report: {report.path}", soft_wrap=True, highlight=False)
    echo_for_programs(report.to_json())


def _print_failures(console: Console, report: Report) -> None:
    reasons = Counter(row.failure for row in report.rows if row.failure is not None)
    if reasons:
        console.print(f"{reasons.total()} of {len(report.rows)} rows have no result:")
    for reason, count in reasons.most_common(_MOST_REASONS):
        console.print(f"  {count} x {reason}", markup=False, highlight=False)


def _table(report: Report, protocol: str, group: str | None) -> Table:
    count = report.prompts(protocol, group)
    most = f", k = {max(report.ks)}" if report.ks else ""
    table = Table(
        title=f"{protocol}, {group or 'all prompts'} ({count}){most}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    # In a narrow terminal the name of a method is wrapped, and no number is.
    table.add_column("method", overflow="fold", min_width=15)
    summaries = report.summary(protocol, group)
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary.scores))
    predicted = any(math.isfinite(summary.bits_per_byte) for summary in summaries.values())
    headings = [name.replace("_", "\n") for name in names]
    headings += ["bits/byte", "% of base"] if predicted else []
    headings += ["seconds"] if names else ["seconds", "documents\n(distinct)"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for method, summary in summaries.items():
        cells = [_number(summary.scores.get(name), 3) for name in names]
        if predicted:
            percent, error = summary.percent_of_base, summary.standard_error
            cells += [
                _number(summary.bits_per_byte, 3),
                f"{_number(percent, 1)} ± {_number(error, 1)}",
            ]
        cells.append(f"{summary.seconds:.2f}")
        if not names:  # scores and documents do not both fit into a terminal
            cells.append(f"{summary.documents_used:.1f} ({summary.distinct_documents:.1f})")
        table.add_row(method, *cells)
    return table


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"
