"""What remains uncertain after each document, and what that has to do with the gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from langchain_sift.errors import require
from langchain_sift.report.plots.axes import WIDTH
from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row
from langchain_sift.report.wording import minus

require("compare", "matplotlib")

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from langchain_sift.report.plots.svg import (  # noqa: E402
    INK,
    LONGEST_LABEL,
    label,
    method_style,
)

_MOST_SCATTERS = 12


def draw_variance(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw what is left of the variance, with a caption; None where nothing is known of it."""
    courses = _courses(report.select(protocol))
    if not courses:
        return None
    labels = [label(", ".join(methods), 2 * LONGEST_LABEL) for methods in courses.values()]
    columns = 1 if max(map(len, labels)) > LONGEST_LABEL else 2
    legend_height = 0.19 * math.ceil(len(courses) / columns)
    figure = Figure(figsize=(WIDTH, 2.7 + legend_height), layout="constrained")
    axes = figure.add_subplot()
    for ((_, course), methods), text in zip(courses.items(), labels, strict=True):
        every = max(1, len(course) // 8)
        axes.plot(course, label=text, markevery=every, **method_style(methods[-1]).line)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("documents chosen")
    axes.set_ylabel("remaining variance, % of prior")
    figure.legend(loc="outside lower left", ncols=columns, handlelength=3)
    return figure, (
        "Variance left at the prompt after each document, mean over prompts; the faster a curve "
        "falls, the more its documents say that is new."
    )


def _courses(rows: Iterable[Row]) -> dict[tuple[str, tuple[float, ...]], list[str]]:
    """Return methods by their selection and the mean course of the variance, in % of prior.

    A prompt for which fewer documents were chosen keeps its last value.
    """
    by_method: dict[str, list[list[float]]] = {}
    for row in rows:
        remaining = [100 * d.posterior_variance / row.prior_variance for d in _known(row)]
        if remaining:
            by_method.setdefault(row.method, []).append([100.0, *remaining])
    courses: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for method, own in by_method.items():
        longest = max(map(len, own))
        padded = np.array([course + course[-1:] * (longest - len(course)) for course in own])
        mean = tuple(np.round(padded.mean(axis=0), 6).tolist())
        courses.setdefault((method.partition(":")[2], mean), []).append(method)
    return courses


def _known(row: Row) -> Sequence[ChosenDocument]:
    known = row.prior_variance > 0 and all(
        math.isfinite(document.posterior_variance) for document in row.chosen
    )
    return row.chosen if known else ()


def draw_uncertainty(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw σ after the last document against the gain; as `draw_variance`."""
    found = {
        method: report.uncertainty_and_gain(protocol, method)
        for method in report.methods
        if method_style(method).mode in {"ttft", "both"}
    }
    found = dict([one for one in found.items() if len(one[1]) > 1][:_MOST_SCATTERS])
    if not found:
        return None
    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.65 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    said = []
    for axes, (method, points) in zip(panels.flat, found.items(), strict=False):
        drawn = method_style(method)
        sigma, percent, _ = zip(*points, strict=True)
        axes.axhline(100, color=INK, linewidth=0.8, alpha=0.6)
        axes.plot(
            sigma, percent, drawn.marker, color=drawn.color, markersize=3, alpha=0.7, **drawn.point
        )
        axes.set_title(label(method))
        interval = report.uncertainty_correlation(protocol, method)
        if interval is not None and math.isfinite(interval.value):
            bounds = f" ({minus(interval.low, 2)} to {minus(interval.high, 2)})"
            known = bounds if math.isfinite(interval.low) else ""
            said.append(f"{method} {minus(interval.value, 2)}{known}")
    for axes in list(panels.flat)[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel("σ after the last document", fontsize="medium")
    figure.supylabel("% of base", fontsize="medium")
    caption = (
        "Each point is a prompt. Where little is uncertain after the choice, much is gained, if "
        "the points rise to the right."
    )
    if said:
        caption += f" Spearman's ρ, with 95 % interval: {'; '.join(said)}."
    return figure, caption
