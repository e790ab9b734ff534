"""What the plots of a report have in common: axes, points, the line of the base model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from langchain_sift.errors import require
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import PERCENT_OF_BASE, quality

require("compare", "matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from langchain_sift.report.plots.svg import INK, label, method_style  # noqa: E402

WIDTH = 5.0  # inches; 360 units of the SVG, so that a narrow page shows it at full size


def metric_of(report: Report, protocol: str) -> str | None:
    """Return what quality is measured by in the plots of a protocol."""
    return next(iter(report.metrics(protocol)), None)


def axis_label(metric: str) -> str:
    """Return what stands at an axis of quality."""
    return "% of the base model's bits per byte" if metric == PERCENT_OF_BASE else label(metric)


def good_end(metric: str) -> str:
    """Return which end of an axis of quality is the good one."""
    return "lower" if metric == PERCENT_OF_BASE else "higher"


def draw_base(
    axes: Axes, report: Report, protocol: str, metric: str, *, vertical: bool = False
) -> None:
    """Draw where the base model is."""
    base = report.summary(protocol).get(BASE)
    value = math.nan if base is None else quality(base, metric)[0]
    if not math.isfinite(value):
        return
    look: dict[str, Any] = {"color": INK, "linewidth": 0.8, "alpha": 0.6}
    if vertical:
        axes.axvline(value, **look)
        above = axes.get_xaxis_transform()
        axes.text(value, 1.0, "base model", transform=above, ha="center", va="bottom")
    else:
        axes.axhline(value, **look)


def labelled_figure(methods: Iterable[str]) -> tuple[Figure, Axes]:
    """Return axes with room for the methods' names on their right."""
    names = [label(method) for method in methods]
    height = max(2.9, 0.6 + 0.165 * len(names))
    figure = Figure(figsize=(WIDTH, height))
    right = 0.97 - min(0.42, 0.055 + 0.0135 * max(map(len, names)))
    bottom = 0.47 / height
    figure.subplots_adjust(left=0.15, right=right, bottom=bottom, top=1 - 0.1 / height)
    return figure, figure.add_subplot()


def draw_point(
    axes: Axes,
    method: str,
    point: tuple[float, float],
    *,
    xerr: float = math.nan,
    yerr: float = math.nan,
) -> None:
    """Draw a method as a point, with bars where its errors are known."""
    drawn = method_style(method)
    axes.errorbar(
        *point,
        xerr=xerr if math.isfinite(xerr) else None,
        yerr=yerr if math.isfinite(yerr) else None,
        color=drawn.color,
        marker=drawn.marker,
        elinewidth=1.1,
        **drawn.point,
    )
