"""Draw quality by group, against the number of documents, and against time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from langchain_sift.report.plots.axes import (
    WIDTH,
    axis_label,
    better_direction,
    draw_base,
    draw_point,
    label,
    label_methods,
    labelled_figure,
    main_metric,
)
from langchain_sift.report.plots.method_styles import INK, method_style
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, quality
from langchain_sift.report.tables import metric_name

_MAX_LINES = 70  # of the plot by group
_MIN_METHODS_BY_GROUP = 2
_LOGARITHMIC_RANGE = 8.0  # ratio of the longest to the shortest time

_Line = tuple[str, str, MethodSummary | None]
"""Label, method and summary of a line of the plot by group; a heading has no summary."""


def draw_by_group(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw each method in each group.

    Returns:
        The figure and its caption; None if there is nothing to draw.
    """
    metric = main_metric(report, protocol)
    if metric is None:
        return None
    lines, shown_by_group = _lines(report, protocol, metric)
    if not any(summary for _, _, summary in lines):
        return None
    figure = Figure(figsize=(WIDTH, 0.75 + 0.19 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    draw_base(axes, report, protocol, metric, vertical=True)
    for y, (_, method, summary) in enumerate(lines):
        if summary is not None:
            _draw_line(axes, y, method, quality(summary, metric))
    axes.set_yticks(range(len(lines)), [text for text, _, _ in lines])
    for tick, (_, _, summary) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if summary else "bold")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(axis_label(metric))
    caption = "Each point is a method with a bar of one standard error in each direction."
    if BASE in report.summary(protocol):
        side = "left" if metric == PERCENT_OF_BASE else "right"
        caption += f" To the {side} of the line, the documents helped."
    if shown_by_group:
        caption += f" Each group shows only the {shown_by_group} best methods of all prompts."
    return figure, caption


def _lines(report: Report, protocol: str, metric: str) -> tuple[list[_Line], int]:
    """Return the lines of the plot by group, and the number of methods shown in each group.

    The number is 0 if each group shows all methods.
    """
    summaries = report.summary(protocol)
    methods = [method for method in summaries if method != BASE]
    by_group = report.summaries_by_group(protocol)
    if not by_group:
        return [(label(method), method, summaries[method]) for method in methods], 0
    room = (_MAX_LINES - len(methods)) // len(by_group) - 1
    most = max(_MIN_METHODS_BY_GROUP, room)
    shown = set(sorted(methods, key=lambda method: _rank(summaries[method], metric))[:most])
    lines: list[_Line] = [("all prompts", "", None)]
    lines += [(label(method), method, summaries[method]) for method in methods]
    for group, of_group in by_group.items():
        lines.append((label(group), "", None))
        lines += [(label(m), m, of_group[m]) for m in methods if m in shown and m in of_group]
    return lines, most if most < len(methods) else 0


def _rank(summary: MethodSummary, metric: str) -> float:
    value = quality(summary, metric)[0]
    sign = 1 if metric == PERCENT_OF_BASE else -1
    return sign * value if math.isfinite(value) else math.inf


def _draw_line(axes: Axes, y: int, method: str, measured: tuple[float, float]) -> None:
    value, error = measured
    if math.isfinite(value):
        draw_point(axes, method, (value, y), xerr=error)
    else:
        across = axes.get_yaxis_transform()
        axes.text(0.02, y, "not scored", transform=across, va="center", alpha=0.7)


def draw_by_documents(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw quality against the number of documents; returns as `draw_by_group`."""
    metric, ks = main_metric(report, protocol), report.ks
    if metric is None or len(ks) < 2:
        return None
    curves = _curves_by_k(report, protocol, metric)
    if not curves:
        return None
    figure, axes = labelled_figure(curves)
    draw_base(axes, report, protocol, metric)
    axes.set_xscale("log")
    without_k = {row.method for row in report.rows if row.protocol == protocol and not row.k}
    for method, curve in curves.items():
        x, y, errors = (np.array(values) for values in zip(*curve, strict=True))
        line = method_style(method).line
        if method in without_k:
            line["marker"] = ""
        axes.plot(x, y, **line)
        bars = np.where(np.isfinite(errors), errors, 0.0)
        axes.vlines(x, y - bars, y + bars, color=line["color"], linewidth=0.7, alpha=0.45)
    axes.xaxis.set_major_locator(FixedLocator(list(ks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ks), [str(k) for k in ks])
    axes.set_xlabel("documents chosen for each prompt")
    axes.set_ylabel(label(metric_name(metric)))
    ends = {method: (float(curve[-1][0]), curve[-1][1]) for method, curve in curves.items()}
    base = quality(report.summary(protocol).get(BASE), metric)[0]
    label_methods(axes, ends | ({BASE: (float(ks[-1]), base)} if math.isfinite(base) else {}))
    return figure, (
        "Each line is a method with bars of one standard error in each direction; "
        f"{better_direction(metric)} is better."
    )


def _curves_by_k(
    report: Report, protocol: str, metric: str
) -> dict[str, list[tuple[int, float, float]]]:
    """Return k, value and standard error of each method's points."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for k in report.ks:
        for method, summary in report.summary(protocol, k=k).items():
            value, error = quality(summary, metric)
            if method != BASE and math.isfinite(value):
                curves.setdefault(method, []).append((k, value, error))
    return curves


def draw_by_seconds(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw quality against seconds, with the Pareto front; returns as `draw_by_group`."""
    metric = main_metric(report, protocol)
    if metric is None:
        return None
    summaries = report.summary(protocol)
    points = {
        method: (summary.seconds, quality(summary, metric)[0])
        for method, summary in summaries.items()
        if math.isfinite(quality(summary, metric)[0]) and math.isfinite(summary.seconds)
    }
    if len(points) < 2:
        return None
    figure, axes = labelled_figure(points)
    draw_base(axes, report, protocol, metric)
    front = pareto_front(points, lower_is_better=metric == PERCENT_OF_BASE)
    x, y = zip(*(points[method] for method in front), strict=True)
    axes.plot(x, y, color=INK, alpha=0.35, linewidth=3, solid_capstyle="round", zorder=1)
    for method, point in points.items():
        draw_point(axes, method, point, yerr=quality(summaries[method], metric)[1])
    _scale_seconds(axes, [seconds for seconds, _ in points.values()])
    axes.margins(y=0.1)
    axes.set_xlabel("mean seconds for a prompt")
    axes.set_ylabel(label(metric_name(metric)))
    label_methods(axes, points)
    return figure, (
        f"Each point is a method; {better_direction(metric)} is better, further left is faster. "
        f"The thick line connects the methods that no other beats in both: {', '.join(front)}."
    )


def _scale_seconds(axes: Axes, seconds: list[float]) -> None:
    """Choose a linear or a logarithmic axis of time."""
    if min(seconds) > 0 and max(seconds) > _LOGARITHMIC_RANGE * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0, right=1.1 * max(seconds) or 1)


def pareto_front(
    points: Mapping[str, tuple[float, float]], *, lower_is_better: bool
) -> tuple[str, ...]:
    """Return the methods that no other method beats in both quality and time.

    A method is left out if another is at least as good and as fast, and better in one of the two.

    Args:
        points: Seconds and quality of each method.
        lower_is_better: If True, a lower value means a higher quality.

    Returns:
        The methods, the fastest first; methods that are equal in both are all included.
    """
    sign = 1 if lower_is_better else -1
    ordered = sorted(points, key=lambda method: (points[method][0], sign * points[method][1]))
    front: list[str] = []
    for method in ordered:
        if (
            not front
            or sign * points[method][1] < sign * points[front[-1]][1]
            or points[method] == points[front[-1]]
        ):
            front.append(method)
    return tuple(front)
