"""Draw the variance that remains after each document, and its relation to the gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from langchain_sift.config import fine_tunes
from langchain_sift.report.intervals import Interval
from langchain_sift.report.plots.axes import MAX_LABEL, WIDTH, label
from langchain_sift.report.plots.method_styles import INK, method_style
from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row, selection_of
from langchain_sift.report.tables import format_signed

_MAX_PANELS = 12
_OF_THE_PRIOR = ("kernel=", "length_scale=", "noise_variance=")  # options


def draw_variance(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw the posterior variance after each document.

    Returns:
        The figure and its caption; None if no variances are known.
    """
    curves = _curves(report.select(protocol))
    if not curves:
        return None
    labels = [label(", ".join(methods), 2 * MAX_LABEL) for methods in curves.values()]
    columns = 1 if max(map(len, labels)) > MAX_LABEL else 2
    legend_height = 0.19 * math.ceil(len(curves) / columns)
    figure = Figure(figsize=(WIDTH, 2.7 + legend_height), layout="constrained")
    axes = figure.add_subplot()
    for ((_, curve), methods), text in zip(curves.items(), labels, strict=True):
        every = max(1, len(curve) // 8)
        axes.plot(curve, label=text, markevery=every, **method_style(methods[-1]).line)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("documents chosen")
    axes.set_ylabel("remaining variance, % of prior")
    figure.legend(loc="outside lower left", ncols=columns, handlelength=3)
    caption = (
        "Variance at the prompt after each document, mean over prompts. The faster a curve falls, "
        "the more new information its documents add."
    )
    if any(
        option in method
        for methods in curves.values()
        for method in methods
        for option in _OF_THE_PRIOR
    ):
        caption += " A curve with another kernel or λ' can be compared with none of the others."
    return figure, caption


def _curves(rows: Iterable[Row]) -> dict[tuple[str, tuple[float, ...]], list[str]]:
    """Return the methods by their selection and mean curve of the variance, in % of prior.

    A prompt with fewer documents than others keeps its last value.
    """
    by_method: dict[str, list[list[float]]] = {}
    for row in rows:
        remaining = [100 * d.posterior_variance / row.prior_variance for d in _with_variance(row)]
        if remaining:
            by_method.setdefault(row.method, []).append([100.0, *remaining])
    curves: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for method, prompts in by_method.items():
        longest = max(map(len, prompts))
        padded = np.array([curve + curve[-1:] * (longest - len(curve)) for curve in prompts])
        mean = tuple(np.round(padded.mean(axis=0), 6).tolist())
        curves.setdefault((selection_of(method), mean), []).append(method)
    return curves


def _with_variance(row: Row) -> Sequence[ChosenDocument]:
    """Return the chosen documents if all their variances are known, else none."""
    known = row.prior_variance > 0 and all(
        math.isfinite(document.posterior_variance) for document in row.chosen
    )
    return row.chosen if known else ()


def draw_uncertainty(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw σ after the last document against percent of base; returns as `draw_variance`."""
    by_method = {
        method: points
        for method in report.methods
        if fine_tunes(method_style(method).mode)
        and len(points := report.uncertainty_and_gain(protocol, method)) > 1
    }
    shown = list(by_method.items())[:_MAX_PANELS]
    if not shown:
        return None
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.65 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (method, points) in zip(panels.flat, shown, strict=False):
        style = method_style(method)
        sigma, percent, _ = zip(*points, strict=True)
        axes.axhline(100, color=INK, linewidth=0.8, alpha=0.6)
        axes.plot(
            sigma,
            percent,
            style.marker,
            color=style.color,
            markersize=3,
            alpha=0.7,
            **style.marker_colors,
        )
        axes.set_title(label(method))
    for axes in list(panels.flat)[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("σ after the last document", fontsize="medium")
    figure.supylabel("% of base", fontsize="medium")
    caption = (
        "Each point is a prompt. If the points rise to the right, prompts with less remaining "
        "uncertainty improve more."
    )
    correlations = report.findings[protocol].correlations
    known = [
        f"{method} {_correlation(correlations[method])}"
        for method, _ in shown
        if method in correlations
    ]
    if known:
        caption += f" Spearman's ρ with 95 % interval: {'; '.join(known)}."
    return figure, caption


def _correlation(interval: Interval) -> str:
    value = format_signed(interval.value, 2)
    if not math.isfinite(interval.low):
        return value
    return f"{value} ({format_signed(interval.low, 2)} to {format_signed(interval.high, 2)})"
