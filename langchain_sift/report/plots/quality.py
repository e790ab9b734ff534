"""Quality by group, against the number of documents, and against time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from langchain_sift.errors import require
from langchain_sift.report.plots.axes import (
    WIDTH,
    axis_label,
    draw_base,
    draw_point,
    good_end,
    labelled_figure,
    metric_of,
)
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, quality
from langchain_sift.report.wording import metric_name

require("compare", "matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator  # noqa: E402

from langchain_sift.report.plots.svg import INK, beside, label, method_style  # noqa: E402

_MOST_LINES = 70  # of the plot by group
_FEWEST_BY_GROUP = 2
_WIDE = 8.0  # times the least number, from which on an axis is logarithmic


def draw_by_group(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw each method in each group, with a caption; None where there is nothing to draw."""
    metric = metric_of(report, protocol)
    lines, left_out = _lines(report, protocol, metric)
    if metric is None or not any(summary for _, _, summary in lines):
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
    side = "left" if metric == PERCENT_OF_BASE else "right"
    caption = (
        f"Each point is a method, its bar one standard error either way; {side} of the line the "
        "documents helped."
    )
    if left_out:
        caption += f" In each group the best {left_out} methods of all prompts are shown."
    return figure, caption


def _lines(
    report: Report, protocol: str, metric: str | None
) -> tuple[list[tuple[str, str, MethodSummary | None]], int]:
    """Return label, method and summary of each line, and how many methods each group is cut to.

    A heading has no summary. The number is 0 where each group has all methods.
    """
    everything = report.summary(protocol)
    methods = [method for method in everything if method != BASE]
    groups = [group for group in report.groups if report.prompts(protocol, group)]
    if len(groups) < 2 or metric is None:
        return [(label(method), method, everything[method]) for method in methods], 0
    room = (_MOST_LINES - len(methods)) // len(groups) - 1
    most = max(_FEWEST_BY_GROUP, room)
    shown = set(sorted(methods, key=lambda m: _rank(everything[m], metric))[:most])
    lines: list[tuple[str, str, MethodSummary | None]] = [("all prompts", "", None)]
    lines += [(label(method), method, everything[method]) for method in methods]
    for group in groups:
        summaries = report.summary(protocol, group)
        lines.append((label(group), "", None))
        lines += [(label(m), m, summaries[m]) for m in methods if m in shown and m in summaries]
    return lines, most if most < len(methods) else 0


def _rank(summary: MethodSummary, metric: str) -> float:
    value = quality(summary, metric)[0]
    sign = 1 if metric == PERCENT_OF_BASE else -1
    return sign * value if math.isfinite(value) else math.inf


def _draw_line(axes: Axes, y: int, method: str, found: tuple[float, float]) -> None:
    value, error = found
    if math.isfinite(value):
        draw_point(axes, method, (value, y), xerr=error)
    else:
        across = axes.get_yaxis_transform()
        axes.text(0.02, y, "not scored", transform=across, va="center", alpha=0.7)


def draw_by_documents(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw quality against the number of documents; as `draw_by_group`."""
    metric, ks = metric_of(report, protocol), report.ks
    if metric is None or len(ks) < 2:
        return None
    by_k = {k: report.summary(protocol, k=k) for k in ks}
    alone = {row.method for row in report.rows if row.protocol == protocol and not row.k}
    courses: dict[str, list[tuple[int, float, float]]] = {}
    for k, summaries in by_k.items():
        for method, summary in summaries.items():
            value, error = quality(summary, metric)
            if method != BASE and math.isfinite(value):
                courses.setdefault(method, []).append((k, value, error))
    if not courses:
        return None
    figure, axes = labelled_figure(courses)
    draw_base(axes, report, protocol, metric)
    axes.set_xscale("log")
    for method, course in courses.items():
        x, y, errors = (np.array(one) for one in zip(*course, strict=True))
        drawn = method_style(method)
        axes.plot(x, y, **drawn.line | ({"marker": ""} if method in alone else {}))
        bars = np.where(np.isfinite(errors), errors, 0.0)
        axes.vlines(x, y - bars, y + bars, color=drawn.color, linewidth=0.7, alpha=0.45)
    axes.xaxis.set_major_locator(FixedLocator(list(ks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ks), [str(k) for k in ks])
    axes.set_xlabel("documents chosen for each prompt")
    axes.set_ylabel(label(metric_name(metric)))
    ends = {method: (float(course[-1][0]), course[-1][1]) for method, course in courses.items()}
    base = quality(by_k[ks[-1]].get(BASE), metric)[0]
    beside(axes, ends | ({BASE: (float(ks[-1]), base)} if math.isfinite(base) else {}))
    return figure, (
        "Each line is a method, its bars one standard error either way; "
        f"{good_end(metric)} is better."
    )


def draw_by_seconds(report: Report, protocol: str) -> tuple[Figure, str] | None:
    """Draw quality against seconds, and the Pareto front; as `draw_by_group`."""
    metric = metric_of(report, protocol)
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
    seconds = [second for second, _ in points.values()]
    if min(seconds) > 0 and max(seconds) > _WIDE * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0, right=1.1 * max(seconds) or 1)
    axes.margins(y=0.1)
    axes.set_xlabel("mean seconds for a prompt")
    axes.set_ylabel(label(metric_name(metric)))
    beside(axes, points)
    return figure, (
        f"Each point is a method; {good_end(metric)} is better, further left is faster. The broad "
        f"line joins those that no other beats in both: {', '.join(front)}."
    )


def pareto_front(
    points: Mapping[str, tuple[float, float]], *, lower_is_better: bool
) -> tuple[str, ...]:
    """Return the methods that no other is at least as good and as fast as, and better in one.

    Args:
        points: Seconds and quality of each method.
        lower_is_better: Whether less is more quality.

    Returns:
        The fastest first; of methods that are the same in both, all.
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
