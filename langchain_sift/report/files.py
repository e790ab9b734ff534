"""Write a report as files: a page, Markdown, JSON, and the plots."""

from __future__ import annotations

import json
from pathlib import Path

from langchain_sift.report.file_names import MARKDOWN, PAGE, PLOTS, RESULTS
from langchain_sift.report.html import write_html
from langchain_sift.report.markdown import markdown
from langchain_sift.report.plots.plots import draw_plots
from langchain_sift.report.report import Report


def write_report(report: Report, folder: Path) -> Report:
    """Write a report as report.html, report.md, results.json and plots/*.svg and *.png.

    The same report gives the same files, byte for byte.

    Args:
        report: The report.
        folder: The folder; it is created if it does not exist, and files of these names are
            replaced.

    Returns:
        The report, with `path` set to the page.
    """
    plots = {protocol: draw_plots(report, protocol) for protocol in report.protocols}
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    links: dict[str, list[tuple[str, str]]] = {}
    for protocol, drawn in plots.items():
        for plot in drawn:
            _write(folder / PLOTS / f"{plot.name}.svg", plot.file)
            (folder / PLOTS / f"{plot.name}.png").write_bytes(plot.png)
        links[protocol] = [(plot.title, f"{PLOTS}/{plot.name}.svg") for plot in drawn]
    _write(folder / MARKDOWN, markdown(report, links))
    results = report.to_json() | {"report": PAGE}  # the same content in any folder
    _write(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    return write_html(report, folder / PAGE, plots)


def _write(path: Path, text: str) -> None:
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
