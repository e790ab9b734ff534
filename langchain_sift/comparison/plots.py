"""The plots of a report, as SVG that can stand in a page beside others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from langchain_sift.comparison.results import BASE, MethodSummary, Report, Row
from langchain_sift.extras import require

require("compare", "matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from langchain_sift.comparison.svg import FONT_SIZE, INK, drawing, svg_of  # noqa: E402

# Okabe & Ito (2008): told apart with any color vision, and of middling lightness.
_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "sift": "#0a7fc2",
        "nearest": "#d55e00",
        "nearest-repeated": "#b58900",
        "mmr": "#009e73",
        "uncertainty": "#cc79a7",
        "random": "#888888",
    }
)
_OTHER_COLOR = "#8c6bb1"
_MARKERS: Mapping[str, str] = MappingProxyType({"rag": "o", "ttft": "s", BASE: "D"})
_LINES: Mapping[str, str] = MappingProxyType({"rag": "--", "ttft": "-"})

_WIDTH = 5.0  # inches; 360 units of the SVG, so that a narrow page shows it at full size
_LONGEST_LABEL = 30
_CROWD = 3  # more names than this stand in a column, with lines to their points


def method_color(method: str) -> str:
    """Return the color of a method: its selection's, and the ink's for the base model."""
    mode, _, selection = method.partition(":")
    return "currentColor" if mode == BASE else _COLORS.get(selection, _OTHER_COLOR)


def percent_of_base(report: Report, protocol: str) -> str:
    """Draw the percent of base of each method in each group, with one standard error.

    Empty where no method other than the base model ran.
    """
    lines = list(_lines(report, protocol))
    if not any(summary for _, _, summary in lines):
        return ""
    with drawing():
        figure = Figure(figsize=(_WIDTH, 0.75 + 0.19 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(100, color=INK, linewidth=0.8, alpha=0.6)
        axes.text(
            100, 1.0, "base model", transform=axes.get_xaxis_transform(), ha="center", va="bottom"
        )
        for y, (_, method, summary) in enumerate(lines):
            if summary is not None:
                _draw_percent(axes, y, method, summary)
        axes.set_yticks(range(len(lines)), [label for label, _, _ in lines])
        for tick, (_, _, summary) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("normal" if summary else "bold")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.yaxis.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("% of the base model's bits per byte")
        return svg_of(figure, f"percent-{report.protocols.index(protocol)}")


def uncertainty(report: Report, protocol: str) -> str:
    """Draw what remained of the prior variance after each choice, the mean over prompts.

    Methods of the same selection and the same course share a line. A prompt for which fewer
    documents were chosen keeps its last value. Empty where nothing was chosen.
    """
    courses = _courses(row for row in report.rows if row.protocol == protocol)
    if not courses:
        return ""
    with drawing():
        labels = [_label(", ".join(methods), 2 * _LONGEST_LABEL) for methods in courses.values()]
        columns = 1 if max(map(len, labels)) > _LONGEST_LABEL else 2
        legend_height = 0.19 * math.ceil(len(courses) / columns)
        figure = Figure(figsize=(_WIDTH, 2.5 + legend_height), layout="constrained")
        axes = figure.add_subplot()
        for ((_, course), methods), label in zip(courses.items(), labels, strict=True):
            mode = methods[-1].partition(":")[0]
            axes.plot(
                course,
                color=_ink_or_color(methods[0]),
                label=label,
                linestyle=_LINES.get(mode, "-."),
                marker=_MARKERS.get(mode, "^"),
                markevery=max(1, len(course) // 10),
            )
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("documents chosen")
        axes.set_ylabel("remaining variance, % of prior")
        figure.legend(loc="outside lower center", ncols=columns, handlelength=3)
        return svg_of(figure, f"uncertainty-{report.protocols.index(protocol)}")


def quality_against_seconds(report: Report, protocol: str) -> str:
    """Draw the percent of base of each method against its mean seconds.

    Empty where no method was scored.
    """
    points = {
        method: summary
        for method, summary in report.summary(protocol).items()
        if math.isfinite(summary.percent_of_base) and math.isfinite(summary.seconds)
    }
    if not points:
        return ""
    with drawing():
        figure = Figure(figsize=(_WIDTH, 2.9))
        figure.subplots_adjust(left=0.12, right=0.98, bottom=0.16, top=0.97)
        axes = figure.add_subplot()
        axes.axhline(100, color=INK, linewidth=0.8, alpha=0.6)
        for method, summary in points.items():
            bar = summary.standard_error
            _draw_point(axes, method, summary.seconds, summary.percent_of_base, yerr=bar)
        axes.margins(x=0.15, y=0.15)
        slowest = max(summary.seconds for summary in points.values())
        axes.set_xlim(left=0, right=1.2 * slowest if slowest > 0 else 1)
        axes.set_xlabel("mean seconds per prompt")
        axes.set_ylabel("% of base")
        _place_labels(
            axes, {m: (summary.seconds, summary.percent_of_base) for m, summary in points.items()}
        )
        return svg_of(figure, f"seconds-{report.protocols.index(protocol)}")


def _lines(report: Report, protocol: str) -> Iterator[tuple[str, str, MethodSummary | None]]:
    """Yield label, method and summary of each line of the dot plot; a heading has no summary."""
    groups = [group for group in report.groups if report.prompts(protocol, group)]
    blocks = [("all prompts", report.summary(protocol))]
    if len(groups) > 1:
        blocks += [(group, report.summary(protocol, group)) for group in groups]
    for heading, summaries in blocks:
        if len(groups) > 1:
            yield _label(heading), "", None
        for method, summary in summaries.items():
            if method != BASE:
                yield _label(method), method, summary


def _draw_percent(axes: Axes, y: int, method: str, summary: MethodSummary) -> None:
    if math.isfinite(summary.percent_of_base):
        bar = summary.standard_error
        _draw_point(axes, method, summary.percent_of_base, y, xerr=bar)
    else:
        beside = axes.get_yaxis_transform()
        axes.text(0.02, y, "not scored", transform=beside, va="center", alpha=0.7)


def _draw_point(
    axes: Axes, method: str, x: float, y: float, *, xerr: float = math.nan, yerr: float = math.nan
) -> None:
    axes.errorbar(
        x,
        y,
        xerr=xerr if math.isfinite(xerr) else None,
        yerr=yerr if math.isfinite(yerr) else None,
        color=_ink_or_color(method),
        marker=_MARKERS.get(method.partition(":")[0], "^"),
        elinewidth=1.1,
    )


def _courses(rows: Iterable[Row]) -> dict[tuple[str, tuple[float, ...]], list[str]]:
    """Return methods by their selection and the mean course of the variance, in % of prior."""
    by_method: dict[str, list[list[float]]] = {}
    for row in rows:
        if row.chosen and row.prior_variance > 0:
            remaining = [100 * d.posterior_variance / row.prior_variance for d in row.chosen]
            by_method.setdefault(row.method, []).append([100.0, *remaining])
    courses: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for method, own in by_method.items():
        longest = max(map(len, own))
        padded = np.array([course + course[-1:] * (longest - len(course)) for course in own])
        mean = tuple(np.round(padded.mean(axis=0), 6).tolist())
        courses.setdefault((method.partition(":")[2], mean), []).append(method)
    return courses


def _place_labels(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each method's name towards the middle, one above the other where points are close."""
    unit, middle = axes.figure.dpi / 72, sum(axes.get_xlim()) / 2
    for on_right in (False, True):
        side = {m: point for m, point in points.items() if (point[0] > middle) == on_right}
        places = {m: axes.transData.transform(point) / unit for m, point in side.items()}
        heights = {m: y for m, (_, y) in places.items()}
        sign, nearest_edge = (-1, min) if on_right else (1, max)
        edge = nearest_edge((x for x, _ in places.values()), default=0.0)
        order = sorted(side, key=heights.__getitem__)
        crowded = len(order) > _CROWD
        # The base model's name would be crossed by its line.
        wanted = [heights[method] + (8 if method == BASE else 0) for method in order]
        for method, y in zip(order, _apart(wanted, axes.bbox.ymin / unit), strict=True):
            x = places[method][0]
            leader = {"arrowstyle": "-", "alpha": 0.4, "linewidth": 0.6, "relpos": (on_right, 0.5)}
            axes.annotate(
                _label(method),
                side[method],
                (edge - x + 18 * sign if crowded else 7 * sign, y - heights[method]),
                textcoords="offset points",
                ha="right" if on_right else "left",
                va="center",
                arrowprops=leader if crowded else None,
            )


def _apart(wanted: Sequence[float], lowest: float) -> list[float]:
    """Return heights, ascending, near those wanted and a line of text apart."""
    line = 1.25 * FONT_SIZE
    heights = list(wanted)
    for i in reversed(range(len(heights) - 1)):  # push down
        heights[i] = min(heights[i], heights[i + 1] - line)
    for i, height in enumerate(heights):  # and up again from the axis
        floor = lowest + line / 2 if i == 0 else heights[i - 1] + line
        heights[i] = max(height, floor)
    return heights


def _label(text: str, longest: int = _LONGEST_LABEL) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _ink_or_color(method: str) -> str:
    color = method_color(method)
    return INK if color == "currentColor" else color
