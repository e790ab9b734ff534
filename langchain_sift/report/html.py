"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from langchain_sift.errors import require
from langchain_sift.report.chosen_documents import ChosenDocuments
from langchain_sift.report.findings import Finding, find
from langchain_sift.report.intervals import Difference
from langchain_sift.report.plots.plots import Plot, draw_plots
from langchain_sift.report.plots.svg import color_of, swatch_of
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row
from langchain_sift.report.summaries import PERCENT_OF_BASE, quality
from langchain_sift.report.tables import Column, columns
from langchain_sift.report.verdicts import failures, leaks_told, without_leaks
from langchain_sift.report.wording import decimals_of, metric_name, number, setting, signed

require("compare", "jinja2")

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: E402

_MOST_PROMPTS = 40  # that can be browsed: a page of many more is slow to open


def write_html(
    report: Report,
    path: Path,
    *,
    findings: Sequence[Finding] | None = None,
    plots: Mapping[str, Sequence[Plot]] | None = None,
) -> Report:
    """Write a report as one HTML file that loads nothing from elsewhere.

    The same report gives the same file, byte for byte.

    Args:
        report: What to write.
        path: The file; one that exists is replaced.
        findings: What `find` found in it, where that is known.
        plots: What `draw_plots` drew for each protocol, where that is known.

    Returns:
        The report, with `path` set.
    """
    findings = find(report) if findings is None else findings
    plots = {p: draw_plots(report, p) for p in report.protocols} if plots is None else plots
    environment = Environment(
        loader=PackageLoader("langchain_sift", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "key": lambda value: repr(float(value)) if math.isfinite(value) else "",
        "metric": metric_name,
        "number": number,
        "setting": setting,
        "signed": signed,
        "swatch": swatch_of,
        "color": color_of,
    }
    prompts = _by_prompt(report)
    shown = _shown(list(dict.fromkeys((row.prompt, row.group) for row in report.rows)))
    chosen = ChosenDocuments(report)
    html = environment.get_template("report.html.jinja").render(
        report=report,
        number_of_prompts=len({row.prompt for row in report.rows}),
        prompts=[_prompt(report, *one, prompts.get(one, {}), chosen) for one in shown],
        protocols=[_protocol(report, one, plots.get(one.protocol, ())) for one in findings],
        leaks_told=leaks_told(report),
        columns=_explained(report),
        documents=chosen.json(),
        nothing=math.nan,
    )
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    return replace(report, path=path)


def _explained(report: Report) -> list[Column]:
    """Return the columns of all tables, each heading once."""
    summaries = chain.from_iterable(report.summary(p).values() for p in report.protocols)
    return list({column.heading: column for column in columns(summaries)}.values())


def _protocol(report: Report, finding: Finding, plots: Sequence[Plot]) -> dict[str, Any]:
    protocol, metrics = finding.protocol, report.metrics(finding.protocol)
    metric = next(iter(metrics), PERCENT_OF_BASE)
    by_group = report.summaries_by_group(protocol)
    return {
        "name": protocol,
        "verdict": finding.verdict,
        "without_leaks": without_leaks(report, protocol) if report.leaks else "",
        "failures": failures(report, protocol),
        "best": finding.best,
        "prompts": report.prompts(protocol),
        "table": _table(report, protocol, None, brief=False),
        "others": {k: _table(report, protocol, k, brief=True) for k in report.ks[:-1]},
        "metric": metric,
        "decimals": decimals_of(metric),
        "groups": {group: report.prompts(protocol, group) for group in by_group},
        "by_group": {
            method: [quality(own.get(method), metric) for own in by_group.values()]
            for method in report.summary(protocol)
            if by_group
        },
        "differences": {
            name: [(one, _bar(one, own)) for one in own]
            for name, own in finding.differences.items()
            if own
        },
        "plots": plots,
    }


def _table(report: Report, protocol: str, k: int | None, *, brief: bool) -> dict[str, Any]:
    summaries = report.summary(protocol, k=k)
    shown = columns(summaries.values(), brief=brief)
    kinds = dict.fromkeys(column.kind for column in shown)
    return {
        "columns": shown,
        "kinds": {kind: sum(column.kind == kind for column in shown) for kind in kinds},
        "rows": {
            method: [column.of(summary) for column in shown]
            for method, summary in summaries.items()
        },
    }


def _bar(
    difference: Difference, among: Iterable[Difference]
) -> tuple[float, float, float, float] | None:
    """Return an interval's beginning, length and value, and 0, in percent of the cell's width."""
    known = [one.interval for one in among if math.isfinite(one.interval.low)]
    lowest = min((0.0, *(one.low for one in known)))
    width = max((0.0, *(one.high for one in known))) - lowest
    interval = difference.interval
    if not width > 0 or not math.isfinite(interval.low):
        return None
    low, high, value, zero = (
        100 * (end - lowest) / width for end in (interval.low, interval.high, interval.value, 0.0)
    )
    return low, high - low, value, zero


def _shown(prompts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the prompts that can be browsed, in order: of each group the first ones."""
    by_group: dict[str, list[tuple[str, str]]] = {}
    for prompt in prompts:
        by_group.setdefault(prompt[1], []).append(prompt)
    turns = chain.from_iterable(zip_longest(*by_group.values()))
    chosen = set([one for one in turns if one][:_MOST_PROMPTS])
    return [prompt for prompt in prompts if prompt in chosen]


def _by_prompt(report: Report) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Return the rows of each prompt and group by protocol, of the largest k."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for protocol in report.protocols:
        for row in report.select(protocol):
            own = found.setdefault((row.prompt, row.group), {})
            own.setdefault(protocol, []).append(row)
    return found


def _prompt(
    report: Report,
    prompt: str,
    group: str,
    rows: Mapping[str, Sequence[Row]],
    chosen: ChosenDocuments,
) -> dict[str, Any]:
    return {
        "name": prompt,
        "group": group,
        "text": report.prompt_texts.get(prompt, ""),
        "leak": report.leaks.get(prompt, ""),
        "protocols": [
            _outcome(protocol, own) | {"lists": chosen.add(own)} for protocol, own in rows.items()
        ],
    }


def _outcome(protocol: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what each method came to on one prompt."""
    base = next((row.bits for row in rows if row.method == BASE and not row.failure), math.nan)
    return {
        "name": protocol,
        "rows": rows,
        "metrics": list(dict.fromkeys(name for row in rows for name in row.scores)),
        "bits": any(math.isfinite(row.bits) for row in rows),
        "sigma": any(math.isfinite(row.posterior_std) for row in rows),
        "answers": any(row.answer is not None for row in rows),
        "percent": {row.method: 100 * row.bits / base if base > 0 else math.nan for row in rows},
    }
