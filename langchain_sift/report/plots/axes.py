"""Draw the common parts of all plots: points, the base model's line, and method labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langchain_sift.report.plots.method_styles import INK, method_style
from langchain_sift.report.plots.svg import FONT_SIZE
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import PERCENT_OF_BASE, quality
from langchain_sift.report.tables import metric_name

WIDTH = 5.0  # inches; 360 units of the SVG, so that a narrow page shows it at full size
MAX_LABEL = 30  # characters
# The options of long names of methods, as the formulas write them.
_SHORT_OPTIONS = {
    ":context_k=": ":context=",
    ":kernel=": ":",
    ":length_scale=": ":ℓ=",
    ":noise_variance=": ":λ'=",
    ":stopping_alpha=": ":α=",
}


def main_metric(report: Report, protocol: str) -> str | None:
    """Return the metric of a protocol's plots; None if nothing was scored."""
    return next(iter(report.metrics(protocol)), None)


def axis_label(metric: str) -> str:
    """Return the label of an axis that shows a metric."""
    is_percent = metric == PERCENT_OF_BASE
    return "% of the base model's bits per byte" if is_percent else label(metric_name(metric))


def better_direction(metric: str) -> str:
    """Return "lower" or "higher": the better direction of a metric."""
    return "lower" if metric == PERCENT_OF_BASE else "higher"


def label(text: str, longest: int = MAX_LABEL) -> str:
    """Shorten a name to a line of a plot, first the options of a method."""
    text = "".join(character if character.isprintable() else " " for character in text)
    for option, short in _SHORT_OPTIONS.items() if len(text) > longest else ():
        text = text.replace(option, short)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def draw_base(
    axes: Axes, report: Report, protocol: str, metric: str, *, vertical: bool = False
) -> None:
    """Draw a line at the value of the base model."""
    value = quality(report.summary(protocol).get(BASE), metric)[0]
    if not math.isfinite(value):
        return
    if vertical:
        axes.axvline(value, color=INK, linewidth=0.8, alpha=0.6)
        above = axes.get_xaxis_transform()
        axes.text(value, 1.0, "base model", transform=above, ha="center", va="bottom")
    else:
        axes.axhline(value, color=INK, linewidth=0.8, alpha=0.6)


def labelled_figure(methods: Iterable[str]) -> tuple[Figure, Axes]:
    """Return axes with room for the names of the methods on the right."""
    names = [label(method) for method in methods]
    height = max(2.9, 0.6 + 0.165 * len(names))
    figure = Figure(figsize=(WIDTH, height))
    right = 0.97 - min(0.46, 0.055 + 0.0135 * max(map(len, names)))
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
    """Draw a method as a point, with error bars if the errors are known."""
    style = method_style(method)
    axes.errorbar(
        *point,
        xerr=xerr if math.isfinite(xerr) else None,
        yerr=yerr if math.isfinite(yerr) else None,
        color=style.color,
        marker=style.marker,
        elinewidth=1.1,
        **style.marker_colors,
    )


def label_methods(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the name of each method to the right of the axes, near the height of its point.

    Args:
        axes: Axes with room for the names on the right.
        points: End of each method's line, in data coordinates.
    """
    _make_room(axes)
    unit = axes.figure.dpi / 72
    edge = axes.bbox.xmax / unit
    anchors = {m: axes.transData.transform(point) / unit for m, point in points.items()}
    order = sorted(points, key=lambda method: float(anchors[method][1]))
    wanted = [float(anchors[method][1]) for method in order]
    lowest, highest = axes.bbox.ymin / unit, axes.bbox.ymax / unit
    for method, y in zip(order, _spread(wanted, lowest, highest), strict=True):
        axes.annotate(
            label(method),
            points[method],
            (edge - anchors[method][0] + 16, y - anchors[method][1]),
            textcoords="offset points",
            ha="left",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": method_style(method).color,
                "alpha": 0.6,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
        )


def _make_room(axes: Axes) -> None:
    """Move the left side until the longest number on it is within the figure."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    outside = -figure.get_tightbbox().x0 / figure.get_figwidth()
    if outside > 0:
        figure.subplots_adjust(left=figure.subplotpars.left + outside + 0.01)


def _spread(wanted: Sequence[float], lowest: float, highest: float) -> list[float]:
    """Return ascending heights near those wanted, at least a line of text apart."""
    line = 1.25 * FONT_SIZE
    heights = list(wanted)
    ceiling = max(highest, lowest + line * len(heights))
    for i in reversed(range(len(heights))):  # push down
        above = ceiling + line / 2 if i + 1 == len(heights) else heights[i + 1]
        heights[i] = min(heights[i], above - line)
    for i, height in enumerate(heights):  # and up again from the axis
        floor = lowest + line / 2 if i == 0 else heights[i - 1] + line
        heights[i] = max(height, floor)
    return heights
