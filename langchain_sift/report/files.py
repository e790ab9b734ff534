"""A report as files: a page, Markdown, JSON, and the plots by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langchain_sift.report.findings import Finding, find
from langchain_sift.report.html import write_html
from langchain_sift.report.markdown import markdown
from langchain_sift.report.plots.plots import draw_plots
from langchain_sift.report.report import Report
from langchain_sift.report.rows import plain

PAGE, MARKDOWN, RESULTS, PLOTS = "report.html", "report.md", "results.json", "plots"


def write_report(report: Report, folder: Path) -> Report:
    """Write a report as report.html, report.md, results.json and plots/*.svg and *.png.

    The same report gives the same files, byte for byte.

    Args:
        report: What to write.
        folder: Where to; it is made if there is none, and files of these names are replaced.

    Returns:
        The report, with `path` set to the page.
    """
    findings = find(report)
    plots = {protocol: draw_plots(report, protocol) for protocol in report.protocols}
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    for plot in (plot for own in plots.values() for plot in own):
        _write(folder / PLOTS / f"{plot.name}.svg", plot.file)
        (folder / PLOTS / f"{plot.name}.png").write_bytes(plot.png)
    links = {
        protocol: [(plot.title, f"{PLOTS}/{plot.name}.svg") for plot in own]
        for protocol, own in plots.items()
    }
    _write(folder / MARKDOWN, markdown(report, findings, links))
    results = json.dumps(as_json(report, findings), indent=1, allow_nan=False)
    _write(folder / RESULTS, results + "\n")
    return write_html(report, folder / PAGE, findings=findings, plots=plots)


def as_json(report: Report, findings: list[Finding]) -> dict[str, Any]:
    """Return a report as plain values, NaN as None.

    Args:
        report: What to tell.
        findings: What `find` found in it.
    """
    found: dict[str, Any] = plain(
        {
            "settings": report.settings,
            "prompts": len({row.prompt for row in report.rows}),
            "methods": report.methods,
            "ks": report.ks,
            "leaks": report.leaks,
            "protocols": {one.protocol: _protocol(report, one) for one in findings},
        }
    )
    return found


def _protocol(report: Report, finding: Finding) -> dict[str, Any]:
    protocol = finding.protocol
    groups = [group for group in report.groups if report.prompts(protocol, group)]
    return {
        "verdict": finding.verdict,
        "best": finding.best,
        "prompts": report.prompts(protocol),
        "metrics": report.metrics(protocol),
        "methods": report.summary(protocol),
        "by_k": {k: report.summary(protocol, k=k) for k in report.ks},
        "groups": {
            group: {
                "prompts": report.prompts(protocol, group),
                "methods": report.summary(protocol, group),
            }
            for group in groups
        },
        "differences": finding.differences,
        "correlations": finding.correlations,
    }


def _write(path: Path, text: str) -> None:
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
