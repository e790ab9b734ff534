"""Print the report of a comparison as tables."""

from __future__ import annotations

import math
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from langchain_sift.cli.app import echo_for_programs
from langchain_sift.cli.terminal import Terminal
from langchain_sift.report.metrics import RETRIEVAL_METRICS
from langchain_sift.report.side_by_side import QuestionAnswers, answers_of
from langchain_sift.report.tables import metric_name

if TYPE_CHECKING:
    from langchain_sift.report.report import Report
    from langchain_sift.report.summaries import MethodSummary

_MOST_REASONS = 3  # of rows without a result
_SHOWN_QUESTIONS = 3  # the page shows all
_SHOWN_CHARACTERS = 240  # of an answer
_MARKS = {True: Text("✓", "green"), False: Text("✗", "red"), None: Text()}
_WIDEST = 6  # characters of a heading on one line
_METHOD_WIDTH, _GAP_WIDTH = 15, 3
_NARROW = 80  # characters of a terminal; a narrower one cuts
_BITS = "bits/byte"

Cell = Callable[["MethodSummary"], str]


def print_report(report: Report, failed: Sequence[str] = ()) -> None:
    """Print a report: tables and findings for a reader, and one line of JSON for programs.

    If the output is piped, the tables are written to stderr.

    Args:
        report: The report.
        failed: The conditions that hold; only the JSON has them.
    """
    console = Terminal(stderr=not sys.stdout.isatty())
    for answered in answers_of(report, count=_SHOWN_QUESTIONS):
        _print_answers(console, answered)
    for protocol in report.protocols:
        for group in (None, *(report.groups if len(report.groups) > 1 else ())):
            console.print(_table(report, protocol, group, max(_NARROW, console.width)))
        console.print(f"{protocol}: {report.findings[protocol].verdict}")
    _print_failures(console, report)
    if report.memory:
        peaks = ", ".join(f"{size / 1e9:.2f} GB {kind}" for kind, size in report.memory.items())
        console.print(f"peak of memory: {peaks}")
    for note in report.notes:
        console.print(f"note: {note}")
    if report.leaks:
        advice = "" if report.leaks_excluded else " --leaks exclude leaves them out."
        console.print(f"leaks: {report.leak_notice}{advice}")
    console.print(f"report: {report.path}", soft_wrap=True)
    memory = {"memory": dict(report.memory)} if report.memory else {}
    echo_for_programs(report.to_json() | memory | ({"failed": list(failed)} if failed else {}))


def _print_answers(console: Terminal, answered: QuestionAnswers) -> None:
    """Print a question and the answers of all methods, as a conversation."""
    console.print(Text.assemble(("Question  ", "bold"), answered.question))
    if answered.reference:
        console.print(Text.assemble(("Expected  ", "bold"), answered.reference))
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for answer in answered.answers:
        text = textwrap.shorten(answer.text, _SHOWN_CHARACTERS, placeholder=" …")
        table.add_row(answer.method, _MARKS[answer.is_right], text)
    console.print(table, "")


def _print_failures(console: Terminal, report: Report) -> None:
    reasons = Counter(row.failure for row in report.rows if row.failure is not None)
    if reasons:
        console.print(f"rows without a result: {reasons.total()} of {len(report.rows)}")
    for reason, count in reasons.most_common(_MOST_REASONS):
        console.print(f"  {count} x {reason}")


def _table(report: Report, protocol: str, group: str | None, width: int) -> Table:
    count = report.prompts(protocol, group)
    most = f", k = {max(report.ks)}" if report.ks else ""
    summaries = report.summary(protocol, group)
    wanted = _columns(list(summaries.values()))
    columns = _fitting(wanted, list(summaries.values()), width - _METHOD_WIDTH - 2)
    left_out = [heading.replace("\n", " ") for heading in wanted if heading not in columns]
    table = Table(
        title=f"{protocol}, {group or 'all prompts'} ({count}){most}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"the report has more: {', '.join(left_out)}" if left_out else None,
        caption_justify="left",
    )
    # In a narrow terminal the name of a method is wrapped, and no number is.
    table.add_column("method", overflow="fold", min_width=_METHOD_WIDTH)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for method, summary in summaries.items():
        table.add_row(method, *(cell(summary) for cell in columns.values()))
    return table


def _columns(summaries: Sequence[MethodSummary]) -> dict[str, Cell]:
    """Return the cell of a method by the heading of each column."""
    names = list(dict.fromkeys(name for summary in summaries for name in summary.scores))
    columns: dict[str, Cell] = {_heading(name): partial(_score, name) for name in names}
    if names and all(name in RETRIEVAL_METRICS for name in names):
        return columns | _of_documents(summaries)
    if any(math.isfinite(summary.bits_per_byte) for summary in summaries):
        columns[_BITS] = lambda summary: _number(summary.bits_per_byte, 3)
        columns["% of base"] = lambda summary: (
            f"{_number(summary.percent_of_base, 1)} ± {_number(summary.standard_error, 1)}"
        )
    columns["seconds"] = lambda summary: _number(summary.seconds, 2)
    if not names:  # scores and documents do not both fit into a terminal
        columns["documents\n(distinct)"] = lambda summary: (
            f"{_number(summary.documents_used, 1)} ({_number(summary.distinct_documents, 1)})"
        )
    return columns


def _of_documents(
    summaries: Sequence[MethodSummary],
) -> dict[str, Cell]:
    """Return the columns of retrieved documents, the most important first."""
    columns: dict[str, Cell] = {}
    if len({round(summary.documents_used, 1) for summary in summaries}) > 1:
        # A retriever of LangChain returns 4 documents by default.
        columns["docu-\nments"] = lambda summary: _number(summary.documents_used, 1)
    columns["redun-\ndancy"] = lambda summary: _number(summary.redundancy, 2)
    columns["ms"] = lambda summary: _number(1000 * summary.seconds, 1)
    if any(math.isfinite(summary.distinct_sources) for summary in summaries):
        columns["sources"] = lambda summary: _number(summary.distinct_sources, 1)
    return columns


def _fitting(
    columns: dict[str, Cell], summaries: Sequence[MethodSummary], room: int
) -> dict[str, Cell]:
    """Return the columns that fit into a number of characters, the first and most important first.

    Bits per byte come last: another column has them in per cent.
    """
    kept = set()
    for heading in sorted(columns, key=lambda heading: heading == _BITS):
        texts = (*heading.split("\n"), *map(columns[heading], summaries))
        width = max(map(len, texts)) + _GAP_WIDTH
        if width <= room:
            room -= width
            kept.add(heading)
    return {heading: cell for heading, cell in columns.items() if heading in kept}


def _heading(metric: str) -> str:
    name = metric_name(metric)
    return "\n".join(name.replace("_", " ").split()) if len(name) > _WIDEST else name


def _score(name: str, summary: MethodSummary) -> str:
    return _number(summary.scores.get(name), 3)


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"
