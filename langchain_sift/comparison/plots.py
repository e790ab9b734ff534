"""The plots of a report: each a figure, as SVG for the page and as files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from langchain_sift.comparison.markdown import metric_name, minus, quality
from langchain_sift.comparison.methods import BASE
from langchain_sift.comparison.results import (
    PERCENT_OF_BASE,
    ChosenDocument,
    MethodSummary,
    Report,
    Row,
)
from langchain_sift.extras import require

require("compare", "matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator  # noqa: E402

from langchain_sift.comparison.svg import (  # noqa: E402
    INK,
    LONGEST_LABEL,
    beside,
    drawing,
    label,
    method_style,
    png_of,
    standing_alone,
    svg_of,
)

_WIDTH = 5.0  # inches; 360 units of the SVG, so that a narrow page shows it at full size
_MOST_LINES = 70  # of the plot by group
_FEWEST_BY_GROUP = 2
_MOST_SCATTERS = 12
_WIDE = 8.0  # times the least number, from which on an axis is logarithmic


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of one protocol."""

    name: str
    """Of its files, without ending."""

    title: str
    caption: str
    svg: str
    """To stand in a page: its ink is the page's, its ground is transparent."""

    png: bytes

    @property
    def file(self) -> str:
        """Return the SVG as a file of its own, with an opaque ground."""
        return standing_alone(self.svg)


def draw_plots(report: Report, protocol: str) -> list[Plot]:
    """Return the plots of a protocol; those that there is nothing for are left out."""
    draws: Mapping[str, tuple[str, Callable[[Report, str], tuple[Figure, str] | None]]] = {
        "groups": ("Quality by group", _by_group),
        "documents": ("Quality against documents", _by_documents),
        "seconds": ("Quality against time", _by_seconds),
        "variance": ("Remaining uncertainty", _variance),
        "sigma": ("Uncertainty against gain", _uncertainty),
    }
    made = []
    for name, (title, draw) in draws.items():
        with drawing():
            drawn = draw(report, protocol)
            if drawn is None:
                continue
            figure, caption = drawn
            identifier = f"{name}-{report.protocols.index(protocol)}"
            svg, png = svg_of(figure, identifier), png_of(figure)
            made.append(Plot(f"{_file_name(protocol)}-{name}", title, caption, svg, png))
    return made


def _file_name(protocol: str) -> str:
    return "".join(one if one.isascii() and one.isalnum() else "_" for one in protocol) or "_"


def _by_group(report: Report, protocol: str) -> tuple[Figure, str] | None:
    metric = _metric(report, protocol)
    lines, left_out = _lines(report, protocol, metric)
    if metric is None or not any(summary for _, _, summary in lines):
        return None
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.19 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    _base_line(axes, report, protocol, metric, vertical=True)
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
    axes.set_xlabel(_axis(metric))
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
    if len(groups) < 2 or metric is None:  # noqa: PLR2004
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
        _draw_point(axes, method, (value, y), xerr=error)
    else:
        across = axes.get_yaxis_transform()
        axes.text(0.02, y, "not scored", transform=across, va="center", alpha=0.7)


def _by_documents(report: Report, protocol: str) -> tuple[Figure, str] | None:
    metric, ks = _metric(report, protocol), report.ks
    if metric is None or len(ks) < 2:  # noqa: PLR2004
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
    figure, axes = _labelled_figure(courses)
    _base_line(axes, report, protocol, metric)
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
        f"Each line is a method, its bars one standard error either way; {_good(metric)} is better."
    )


def _by_seconds(report: Report, protocol: str) -> tuple[Figure, str] | None:
    metric = _metric(report, protocol)
    if metric is None:
        return None
    summaries = report.summary(protocol)
    points = {
        method: (summary.seconds, quality(summary, metric)[0])
        for method, summary in summaries.items()
        if math.isfinite(quality(summary, metric)[0]) and math.isfinite(summary.seconds)
    }
    if len(points) < 2:  # noqa: PLR2004
        return None
    figure, axes = _labelled_figure(points)
    _base_line(axes, report, protocol, metric)
    front = pareto_front(points, lower_is_better=metric == PERCENT_OF_BASE)
    x, y = zip(*(points[method] for method in front), strict=True)
    axes.plot(x, y, color=INK, alpha=0.35, linewidth=3, solid_capstyle="round", zorder=1)
    for method, point in points.items():
        _draw_point(axes, method, point, yerr=quality(summaries[method], metric)[1])
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
        f"Each point is a method; {_good(metric)} is better, further left is faster. The broad "
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


def _variance(report: Report, protocol: str) -> tuple[Figure, str] | None:
    courses = _courses(report.select(protocol))
    if not courses:
        return None
    labels = [label(", ".join(methods), 2 * LONGEST_LABEL) for methods in courses.values()]
    columns = 1 if max(map(len, labels)) > LONGEST_LABEL else 2
    legend_height = 0.19 * math.ceil(len(courses) / columns)
    figure = Figure(figsize=(_WIDTH, 2.7 + legend_height), layout="constrained")
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


def _uncertainty(report: Report, protocol: str) -> tuple[Figure, str] | None:
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
    figure = Figure(figsize=(_WIDTH, 0.4 + 1.65 * rows), layout="constrained")
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


def _metric(report: Report, protocol: str) -> str | None:
    return next(iter(report.metrics(protocol)), None)


def _axis(metric: str) -> str:
    return "% of the base model's bits per byte" if metric == PERCENT_OF_BASE else label(metric)


def _good(metric: str) -> str:
    return "lower" if metric == PERCENT_OF_BASE else "higher"


def _base_line(
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


def _labelled_figure(methods: Iterable[str]) -> tuple[Figure, Axes]:
    """Return axes with room for the methods' names on their right."""
    names = [label(method) for method in methods]
    height = max(2.9, 0.6 + 0.165 * len(names))
    figure = Figure(figsize=(_WIDTH, height))
    right = 0.97 - min(0.42, 0.055 + 0.0135 * max(map(len, names)))
    bottom = 0.47 / height
    figure.subplots_adjust(left=0.15, right=right, bottom=bottom, top=1 - 0.1 / height)
    return figure, figure.add_subplot()


def _draw_point(
    axes: Axes,
    method: str,
    point: tuple[float, float],
    *,
    xerr: float = math.nan,
    yerr: float = math.nan,
) -> None:
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
