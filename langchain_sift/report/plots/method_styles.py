"""Give each method its color, marker and line style."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypedDict

from langchain_sift.report.rows import BASE, CHAIN, SELECTION, selection_of

# A color that nothing else has. The SVG of a page has `currentColor` in its place, so that text and
# lines are dark on a light page and light on a dark page.
INK = "#010203"

# After Okabe & Ito (2008): distinguishable with any color vision, and of medium lightness.
_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "sift": "#0a7fc2",
        "nearest": "#d55e00",
        "nearest-repeated": "#b58900",
        "mmr": "#009e73",
        "uncertainty": "#c4699c",
        "hull": "#7d5fc7",
        "random": "#888888",
        "pyversity-mmr": "#5aa469",
        "pyversity-msd": "#a5673f",
        "pyversity-dpp": "#6f8f1f",
        "pyversity-cover": "#3d8a8a",
        "pyversity-ssd": "#b3527e",
    }
)
# SIFT with options: the same blue, towards violet and towards green.
_SIFT_SHADES: Mapping[str, str] = MappingProxyType(
    {
        "residual": "#5b6ee0",
        "exhaustive": "#0c95a8",
        "kernel": "#3a6fd0",
        "noise_variance": "#2f8fdd",
        "stopping_alpha": "#3f78a6",
    }
)
_OTHER_COLORS = ("#a5673f", "#6f8f1f", "#b3527e", "#3d8a8a")
_MARKERS: Mapping[str, str] = MappingProxyType(
    {"rag": "o", "ttft": "s", "both": "^", "auto": "P", SELECTION: "o", BASE: "D", CHAIN: "X"}
)
_DASHES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "rag": (4, 1.6),
        "ttft": (),
        "both": (6, 1.5, 1.2, 1.5),
        "auto": (1.2, 1.2),
        SELECTION: (),
        BASE: (),
        CHAIN: (1.2, 1.2),
    }
)
_VARIANT_DASHES = ((9, 1.8), (2.5, 1.5), (7, 1.5, 1, 1.5, 1, 1.5))


class MarkerColors(TypedDict):
    """The colors of a marker, as keyword arguments of matplotlib."""

    markeredgecolor: str
    markerfacecolor: str


class LineStyle(MarkerColors):
    """The style of a line with markers, as keyword arguments of matplotlib."""

    color: str
    marker: str
    linestyle: str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """The style of a method, derived from its name: the same in every plot of every report."""

    color: str
    marker: str
    dashes: tuple[float, ...]
    mode: str
    """Mode of the method: "base", "rag", "ttft", "both", "auto", "selection" or "chain"."""

    hollow: bool
    """True for a variant: a method with options."""

    @property
    def marker_colors(self) -> MarkerColors:
        """The colors of the marker."""
        return {
            "markeredgecolor": self.color,
            "markerfacecolor": "none" if self.hollow else self.color,
        }

    @property
    def line(self) -> LineStyle:
        """The line with its markers."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": (0, self.dashes) if self.dashes else "-",
            **self.marker_colors,
        }


def method_style(method: str) -> MethodStyle:
    """Return the style of a method: the color of its selection, the marker of its mode."""
    if method == BASE:
        return MethodStyle(INK, _MARKERS[BASE], _DASHES[BASE], BASE, hollow=False)
    rest = selection_of(method)
    mode = method.partition(":")[0] if rest != method else SELECTION
    variant = method if mode == SELECTION else method.partition(":")[2]
    selection, _, options = variant.partition(":")
    if mode == SELECTION and selection not in _COLORS:  # a runnable of the user's
        color = _other_color(method)
        return MethodStyle(color, _MARKERS[CHAIN], _DASHES[CHAIN], CHAIN, hollow=False)
    color = _COLORS.get(selection) or _other_color(selection)
    if selection == "sift":
        option = options.partition(":")[0].partition("=")[0]
        color = _SIFT_SHADES.get(option, color)
    dashes = _VARIANT_DASHES[_digest(variant) % len(_VARIANT_DASHES)] if options else _DASHES[mode]
    return MethodStyle(color, _MARKERS[mode], dashes, mode, hollow=bool(options))


def color_of(method: str) -> str:
    """Return the color of a method in CSS."""
    color = method_style(method).color
    return "currentColor" if color == INK else color


def swatch_of(method: str) -> str:
    """Return the CSS classes of a method's symbol in tables."""
    style = method_style(method)
    return f"swatch {style.mode}{' hollow' if style.hollow else ''}"


def _other_color(name: str) -> str:
    return _OTHER_COLORS[_digest(name) % len(_OTHER_COLORS)]


def _digest(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))
