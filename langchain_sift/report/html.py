"""Write a report as a self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from langchain_sift.errors import require
from langchain_sift.report.chosen_documents import DocumentLists
from langchain_sift.report.counts import counted
from langchain_sift.report.findings import Finding
from langchain_sift.report.intervals import Difference
from langchain_sift.report.plots.method_styles import color_of, swatch_of
from langchain_sift.report.plots.plots import Plot
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row
from langchain_sift.report.side_by_side import answers_of
from langchain_sift.report.summaries import PERCENT_OF_BASE, quality
from langchain_sift.report.tables import (
    Column,
    columns,
    decimals_of,
    format_difference,
    format_number,
    format_setting,
    metric_name,
)

require("compare", "jinja2")

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: E402

_MAX_PROMPTS = 40  # in the list of prompts: a page with many more is slow to open
_MAX_ANSWERS = 12  # questions with all answers; the list of prompts has more


@dataclass(frozen=True, slots=True)
class _MethodTable:
    """A table of methods with the columns that have values."""

    columns: list[Column]
    kinds: dict[str, int]
    """Number of columns by kind."""

    rows: dict[str, list[float]]
    """Values by method."""


@dataclass(frozen=True, slots=True)
class _Bar:
    """An interval drawn in a table cell, in percent of the cell's width."""

    start: float
    length: float
    value: float
    zero: float


@dataclass(frozen=True, slots=True)
class _Section:
    """The section of a protocol."""

    finding: Finding
    prompts: int
    table: _MethodTable
    """The table of the largest k."""

    tables_by_k: dict[int, _MethodTable]
    """The tables of the other k."""

    metric: str
    groups: dict[str, int]
    """Number of prompts by group; empty if there are fewer than two groups."""

    by_group: dict[str, list[tuple[float, float]]]
    """Value and standard error in each group, by method."""

    differences: dict[str, list[tuple[Difference, _Bar | None]]]
    """Differences by metric."""

    plots: Sequence[Plot]


@dataclass(frozen=True, slots=True)
class _PromptScores:
    """The results of all methods on a prompt under a protocol."""

    protocol: str
    rows: Sequence[Row]
    percents: dict[str, float]
    """Percent of base by method."""

    list_number: int | None
    """Number of the prompt's documents in `DocumentLists`."""

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))

    @property
    def has_bits(self) -> bool:
        return any(math.isfinite(row.bits) for row in self.rows)

    @property
    def has_sigma(self) -> bool:
        return any(math.isfinite(row.posterior_std) for row in self.rows)

    @property
    def has_answers(self) -> bool:
        return any(row.answer is not None for row in self.rows)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """An entry of the list of prompts."""

    id: str
    group: str
    text: str
    leak: str
    """Description of the leak; empty if there is none."""

    scores: list[_PromptScores]


def write_html(report: Report, path: Path, plots: Mapping[str, Sequence[Plot]]) -> Report:
    """Write a report as an HTML file that loads nothing from elsewhere.

    The same report gives the same file, byte for byte.

    Args:
        report: The report.
        path: The file; an existing file is replaced.
        plots: The plots of each protocol.

    Returns:
        The report, with `path` set.
    """
    documents = DocumentLists(report.texts)
    sections = [
        _section(report, finding, plots.get(protocol, ()))
        for protocol, finding in report.findings.items()
    ]
    html = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            number_of_prompts=len({row.prompt for row in report.rows}),
            prompts=_prompts(report, documents),
            answers=answers_of(report, count=_MAX_ANSWERS),
            sections=sections,
            columns=_explained_columns(report),
            documents=documents.json(),
            nothing=math.nan,
        )
    )
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    return report.with_path(path)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("langchain_sift", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "sort_key": lambda value: repr(float(value)) if math.isfinite(value) else "",
        "metric": metric_name,
        "decimals": decimals_of,
        "number": format_number,
        "setting": format_setting,
        "difference": format_difference,
        "swatch": swatch_of,
        "color": color_of,
    }
    environment.globals["counted"] = counted
    return environment


def _explained_columns(report: Report) -> list[Column]:
    """Return the columns of all tables, each heading once."""
    summaries = chain.from_iterable(report.summary(name).values() for name in report.protocols)
    return list({column.heading: column for column in columns(summaries)}.values())


def _section(report: Report, finding: Finding, plots: Sequence[Plot]) -> _Section:
    protocol = finding.protocol
    metric = next(iter(report.metrics(protocol)), PERCENT_OF_BASE)
    by_group = report.summaries_by_group(protocol)
    return _Section(
        finding=finding,
        prompts=report.prompts(protocol),
        table=_method_table(report, protocol, None, brief=False),
        tables_by_k={k: _method_table(report, protocol, k, brief=True) for k in report.ks[:-1]},
        metric=metric,
        groups={group: report.prompts(protocol, group) for group in by_group},
        by_group={
            method: [quality(summaries.get(method), metric) for summaries in by_group.values()]
            for method in report.summary(protocol)
            if by_group
        },
        differences={
            name: [(difference, _bar(difference, differences)) for difference in differences]
            for name, differences in finding.differences.items()
            if differences
        },
        plots=plots,
    )


def _method_table(report: Report, protocol: str, k: int | None, *, brief: bool) -> _MethodTable:
    summaries = report.summary(protocol, k=k)
    shown = columns(summaries.values(), brief=brief)
    kinds = dict.fromkeys(column.kind for column in shown)
    return _MethodTable(
        columns=shown,
        kinds={kind: sum(column.kind == kind for column in shown) for kind in kinds},
        rows={
            method: [column.value(summary) for column in shown]
            for method, summary in summaries.items()
        },
    )


def _bar(difference: Difference, differences: Iterable[Difference]) -> _Bar | None:
    """Return the bar of an interval, on the scale of all differences of a table."""
    known = [other.interval for other in differences if math.isfinite(other.interval.low)]
    lowest = min((0.0, *(interval.low for interval in known)))
    width = max((0.0, *(interval.high for interval in known))) - lowest
    interval = difference.interval
    if not width > 0 or not math.isfinite(interval.low):
        return None
    low, high, value, zero = (
        100 * (end - lowest) / width for end in (interval.low, interval.high, interval.value, 0.0)
    )
    return _Bar(low, high - low, value, zero)


def _prompts(report: Report, documents: DocumentLists) -> list[_Prompt]:
    """Return the entries of the list of prompts, and add their documents."""
    rows: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for protocol in report.protocols:
        for row in report.select(protocol):
            rows.setdefault((row.prompt, row.group), {}).setdefault(protocol, []).append(row)
    shown = _shown(list(dict.fromkeys((row.prompt, row.group) for row in report.rows)))
    return [
        _Prompt(
            id=prompt,
            group=group,
            text=report.prompt_texts.get(prompt, ""),
            leak=report.leaks.get(prompt, ""),
            scores=[
                _PromptScores(
                    protocol,
                    scored,
                    _percents(scored),
                    documents.add(scored, report.relevant.get(prompt, ())),
                )
                for protocol, scored in rows.get((prompt, group), {}).items()
            ],
        )
        for prompt, group in shown
    ]


def _shown(prompts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the prompts of the list, in order: the first of each group."""
    by_group: dict[str, list[tuple[str, str]]] = {}
    for prompt in prompts:
        by_group.setdefault(prompt[1], []).append(prompt)
    in_turn = chain.from_iterable(zip_longest(*by_group.values()))
    chosen = set([prompt for prompt in in_turn if prompt][:_MAX_PROMPTS])
    return [prompt for prompt in prompts if prompt in chosen]


def _percents(rows: Sequence[Row]) -> dict[str, float]:
    """Return the bits of each method in percent of the base model's."""
    base = next((row.bits for row in rows if row.method == BASE and not row.failure), math.nan)
    return {row.method: 100 * row.bits / base if base > 0 else math.nan for row in rows}
