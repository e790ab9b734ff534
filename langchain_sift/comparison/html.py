"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_sift.comparison import plots
from langchain_sift.comparison.results import BASE, MethodSummary, Report, Row, summarize
from langchain_sift.extras import require

require("compare", "jinja2", "matplotlib")

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: E402

_MOST_PROMPTS = 40  # that can be browsed: a page of many more is slow to open
_GAP = "\N{NO-BREAK SPACE}"
_STANDARD_ERRORS = 2  # within which two methods are not told apart


def write_html(report: Report, path: Path) -> Report:
    """Write a report as one HTML file that loads nothing from elsewhere.

    The same report gives the same file, byte for byte.

    Args:
        report: What to write.
        path: The file; one that exists is replaced.

    Returns:
        The report, with `path` set.
    """
    environment = Environment(
        loader=PackageLoader("langchain_sift", "comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "color": plots.method_color,
        "key": lambda value: repr(value) if math.isfinite(value) else "",
        "number": _number,
        "setting": _setting,
    }
    prompts = list(dict.fromkeys((row.prompt, row.group) for row in report.rows))
    html = environment.get_template("report.html.jinja").render(
        report=report,
        methods=list(dict.fromkeys(row.method for row in report.rows)),
        number_of_prompts=len(prompts),
        prompts=[_prompt(report, *prompt) for prompt in prompts[:_MOST_PROMPTS]],
        protocols=[_protocol(report, protocol) for protocol in report.protocols],
    )
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    return replace(report, path=path)


def _protocol(report: Report, protocol: str) -> dict[str, Any]:
    groups = [group for group in report.groups if report.prompts(protocol, group)]
    return {
        "name": protocol,
        "verdict": verdict(report, protocol),
        "prompts": report.prompts(protocol),
        "summary": report.summary(protocol),
        "best": next(iter(_ranked(report.summary(protocol))), None),
        "groups": [
            {
                "name": group,
                "prompts": report.prompts(protocol, group),
                "summary": report.summary(protocol, group),
                "best": next(iter(_ranked(report.summary(protocol, group))), None),
            }
            for group in groups
            if len(groups) > 1
        ],
        "percent_plot": plots.percent_of_base(report, protocol),
        "seconds_plot": plots.quality_against_seconds(report, protocol),
        "uncertainty_plot": plots.uncertainty(report, protocol),
    }


def verdict(report: Report, protocol: str) -> str:
    """Return what a protocol found, in plain words: the best method, and if that is certain."""
    summaries = report.summary(protocol)
    ranked = _ranked(summaries)
    if len(ranked) < 2:  # noqa: PLR2004
        return "There are no two methods to compare: the base model and one other must be scored."
    best, runner_up = ranked[:2]
    percents = {
        method: f"{summaries[method].percent_of_base:.1f}{_GAP}% "
        f"(±{_GAP}{_number(summaries[method].standard_error, 1)})"
        for method in (best, runner_up)
    }
    if best == BASE:
        found = (
            f"No method improved on the base model; the closest, {runner_up}, needs "
            f"{percents[runner_up]} of its bits per byte"
        )
    elif runner_up == BASE:
        found = (
            f"Only {best} improved on the base model, with {percents[best]} of its bits per byte"
        )
    else:
        found = (
            f"{best} needs the fewest bits per byte, {percents[best]} of the base model's, against "
            f"{percents[runner_up]} for the runner-up, {runner_up}"
        )
    return f"{found}{_certainty(_difference(report, protocol, best, runner_up))}"


def _certainty(difference: MethodSummary | None) -> str:
    if difference is None:
        return "; no prompt was scored with both, so the two cannot be told apart."
    if difference.prompts == 1:
        return "; on one prompt there is no standard error, so the two cannot be told apart."
    points, error = difference.percent_of_base, difference.standard_error
    gap = f"{points:.1f}{_GAP}±{_GAP}{error:.1f}"
    measured = f"{difference.prompts} prompts the difference of {gap} points is"
    if points <= _STANDARD_ERRORS * error:
        return f"; but on {measured} within two standard errors: the two cannot be told apart."
    return f"; on {measured} more than two standard errors."


def _difference(report: Report, protocol: str, first: str, second: str) -> MethodSummary | None:
    """Return by how much the second exceeds the first, on the prompts that both were scored on.

    The difference of two ratios to the same base is such a ratio itself. Its standard error is
    less than that of two independent ones: a prompt that is hard for one is hard for the other.
    """
    scored = [row for row in report.rows if row.protocol == protocol and row.failure is None]
    base = [row for row in scored if row.method == BASE]
    bits = {row.prompt: row.bits for row in scored if row.method == first}
    in_common = bits.keys() & {row.prompt for row in base}
    differences = [
        replace(row, method="difference", bits=row.bits - bits[row.prompt])
        for row in scored
        if row.method == second and row.prompt in in_common
    ]
    return summarize([*base, *differences]).get("difference")


def _ranked(summaries: Mapping[str, MethodSummary]) -> list[str]:
    percents = {method: summary.percent_of_base for method, summary in summaries.items()}
    return sorted((m for m, p in percents.items() if math.isfinite(p)), key=percents.__getitem__)


def _prompt(report: Report, prompt: str, group: str) -> dict[str, Any]:
    rows = [row for row in report.rows if row.prompt == prompt and row.group == group]
    by_protocol: dict[str, list[Row]] = {}
    for row in rows:
        by_protocol.setdefault(row.protocol, []).append(row)
    return {
        "name": prompt,
        "group": group,
        "methods": list(dict.fromkeys(row.method for row in rows)),
        "summaries": {protocol: summarize(own) for protocol, own in by_protocol.items()},
        "failures": {(row.protocol, row.method): row.failure for row in rows if row.failure},
        "selections": _selections(rows, len(by_protocol)),
    }


def _selections(rows: Iterable[Row], protocols: int) -> list[dict[str, Any]]:
    """Return what was chosen, once for all methods of a selection that chose the same."""
    alike: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        if row.chosen:
            ids = tuple(document.id for document in row.chosen)
            alike.setdefault((row.method.partition(":")[2], ids), []).append(row)
    return [
        {"methods": _methods(own, protocols), "documents": _documents(own, protocols)}
        for own in alike.values()
    ]


def _methods(rows: Iterable[Row], protocols: int) -> dict[str, str]:
    """Return the methods of rows, each with the protocols it is of if it is not of all."""
    by_method: dict[str, list[str]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row.protocol)
    return {
        method: "" if len(own) == protocols else ", ".join(own) for method, own in by_method.items()
    }


def _documents(rows: Sequence[Row], protocols: int) -> list[dict[str, Any]]:
    """Return the documents that all of the rows chose, and which rows had no use for them."""
    chosen, prior_variance = rows[0].chosen, rows[0].prior_variance
    return [
        {
            "document": document,
            "again": any(document.id == earlier.id for earlier in chosen[:place]),
            "percent": 100 * document.posterior_variance / prior_variance
            if prior_variance > 0  # NaN is not
            else math.nan,
            "unused": _methods(
                (row for row in rows if row.failure is None and place not in row.used_places),
                protocols,
            ),
        }
        for place, document in enumerate(chosen)
    ]


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "–"
