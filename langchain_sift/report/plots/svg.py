"""How plots look, and figures as SVG and PNG: each method's color, marker and line, the labels."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from langchain_sift.errors import require
from langchain_sift.report.rows import BASE, CHAIN, MODES

require("compare", "matplotlib")

from matplotlib import style  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

# A color that nothing else has; it becomes `currentColor`, so that text and lines are dark on a
# light page and light on a dark one.
INK = "#010203"
FONT_SIZE = 9.0
LONGEST_LABEL = 34

# After Okabe & Ito (2008): told apart with any color vision, and of middling lightness.
_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "sift": "#0a7fc2",
        "nearest": "#d55e00",
        "nearest-repeated": "#b58900",
        "mmr": "#009e73",
        "uncertainty": "#c4699c",
        "hull": "#7d5fc7",
        "random": "#888888",
    }
)
# Of SIFT with options: the same blue, towards violet and towards green.
_SIFT_SHADES: Mapping[str, str] = MappingProxyType(
    {
        "residual": "#5b6ee0",
        "exhaustive": "#0c95a8",
        "noise_variance": "#2f8fdd",
        "stopping_alpha": "#3f78a6",
    }
)
_OTHER_COLORS = ("#a5673f", "#6f8f1f", "#b3527e", "#3d8a8a")
_MARKERS: Mapping[str, str] = MappingProxyType(
    {"rag": "o", "ttft": "s", "both": "^", BASE: "D", CHAIN: "X"}
)
_DASHES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"rag": (4, 1.6), "ttft": (), "both": (6, 1.5, 1.2, 1.5), BASE: (), CHAIN: (1.2, 1.2)}
)
_VARIANT_DASHES = ((9, 1.8), (2.5, 1.5), (7, 1.5, 1, 1.5, 1, 1.5))


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How a method is drawn, from its name alone: the same in every plot of every report."""

    color: str
    marker: str
    dashes: tuple[float, ...]
    mode: str
    """Of `methods.Method`."""

    hollow: bool
    """Whether it is a variant: a method with options."""

    @property
    def line(self) -> dict[str, Any]:
        """Return how matplotlib says it."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": (0, self.dashes) if self.dashes else "-",
            **self.point,
        }

    @property
    def point(self) -> dict[str, Any]:
        """Return how matplotlib fills the marker."""
        return {
            "markeredgecolor": self.color,
            "markerfacecolor": "none" if self.hollow else self.color,
        }


def method_style(method: str) -> MethodStyle:
    """Return the style of a method: its selection's color, its mode's marker and dashes."""
    if method == BASE:
        return MethodStyle(INK, _MARKERS[BASE], _DASHES[BASE], BASE, hollow=False)
    mode, _, rest = method.partition(":")
    if mode not in MODES:
        return MethodStyle(_other(method), _MARKERS[CHAIN], _DASHES[CHAIN], CHAIN, hollow=False)
    selection, _, options = rest.partition(":")
    color = _COLORS.get(selection) or _other(selection)
    if selection == "sift":
        first = options.partition(":")[0].partition("=")[0]
        color = _SIFT_SHADES.get(first, color)
    dashes = _VARIANT_DASHES[_digest(rest) % len(_VARIANT_DASHES)] if options else _DASHES[mode]
    return MethodStyle(color, _MARKERS[mode], dashes, mode, hollow=bool(options))


def color_of(method: str) -> str:
    """Return a method's color as CSS has it."""
    color = method_style(method).color
    return "currentColor" if color == INK else color


def swatch_of(method: str) -> str:
    """Return the classes of a method's sign."""
    style = method_style(method)
    return f"swatch {style.mode}{' hollow' if style.hollow else ''}"


def _other(name: str) -> str:
    return _OTHER_COLORS[_digest(name) % len(_OTHER_COLORS)]


def _digest(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


_STYLE = {
    "axes.edgecolor": INK,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_SIZE,
    "font.size": FONT_SIZE,
    "grid.alpha": 0.12,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "langchain-sift",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": INK,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.color": INK,
    "ytick.major.width": 0.6,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the same style whatever the user's configuration of matplotlib says."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Names may be in any script; it is the reader's browser that has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Return a name as a plot can show it: on one line, and not too long."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def beside(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each method's name on the right of the axes, at the height of its point or near it.

    Args:
        axes: Whose right side has room for the names.
        points: Where each method's line ends, in data coordinates.
    """
    _make_room(axes)
    unit = axes.figure.dpi / 72
    edge = axes.bbox.xmax / unit
    places = {m: axes.transData.transform(point) / unit for m, point in points.items()}
    order = sorted(points, key=lambda method: float(places[method][1]))
    wanted = [float(places[method][1]) for method in order]
    lowest, highest = axes.bbox.ymin / unit, axes.bbox.ymax / unit
    for method, y in zip(order, _apart(wanted, lowest, highest), strict=True):
        drawn = method_style(method)
        axes.annotate(
            label(method),
            points[method],
            (edge - places[method][0] + 16, y - places[method][1]),
            textcoords="offset points",
            ha="left",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": drawn.color,
                "alpha": 0.6,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
        )


def _make_room(axes: Axes) -> None:
    """Move the left side to where the longest number on it begins within the figure."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    outside = -figure.get_tightbbox().x0 / figure.get_figwidth()
    if outside > 0:
        figure.subplots_adjust(left=figure.subplotpars.left + outside + 0.01)


def _apart(wanted: Sequence[float], lowest: float, highest: float) -> list[float]:
    """Return heights, rising, near those wanted and a line of text apart."""
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


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as one SVG element whose ids begin with a name.

    A tag is all that is changed: the text of the plot holds no `<`, since it is escaped.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its style sheet would reach every element of the page; the root's attributes are inherited.
    svg = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: _rewrite_tag(tag[0], name), svg).strip()


def standing_alone(svg: str) -> str:
    """Return what `svg_of` returned as a file: dark on an opaque white, wherever it is shown."""
    root, rest = svg.split(">", maxsplit=1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', root)
    size = f' width="{box[1]}pt" height="{box[2]}pt"' if box else ""
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    body = rest.replace("currentColor", "#1c1e21")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{root}{size}>\n{background}{body}\n'


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG, dark on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _rewrite_tag(tag: str, name: str) -> str:
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version|xmlns:xlink)="[^"]*"', "", tag)
        tag = f'<svg role="img" stroke-linejoin="round"{tag.removeprefix("<svg")}'
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", tag)
