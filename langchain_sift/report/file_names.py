"""Name the files of a comparison and of its report."""

from __future__ import annotations

from collections.abc import Iterable

ROWS, TEXTS, PROMPTS, RUN = "results.jsonl", "documents.jsonl", "prompts.jsonl", "run.json"
"""The rows of a comparison, the chosen documents, the prompts, and the settings."""

PAGE, MARKDOWN, RESULTS, PLOTS = "report.html", "report.md", "results.json", "plots"

PLOT_NAMES = ("groups", "documents", "seconds", "variance", "sigma")
"""The plots of a protocol; those without data are not written."""


def plot_name(protocol: str, name: str) -> str:
    """Return the name of the files of a plot, without extension.

    Args:
        protocol: The protocol.
        name: One of `PLOT_NAMES`.
    """
    safe = (letter if letter.isascii() and letter.isalnum() else "_" for letter in protocol)
    return f"{''.join(safe) or '_'}-{name}"


def report_files(protocols: Iterable[str]) -> tuple[str, ...]:
    """Return the paths in the folder of all files that a report of some protocols may have."""
    plots = (
        f"{PLOTS}/{plot_name(protocol, name)}{ending}"
        for protocol in protocols
        for name in PLOT_NAMES
        for ending in (".svg", ".png")
    )
    return (PAGE, MARKDOWN, RESULTS, *plots)
