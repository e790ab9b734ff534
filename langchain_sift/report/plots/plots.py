"""The plots of a report: each a figure, as SVG for the page and as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from langchain_sift.errors import require
from langchain_sift.report.plots.quality import (
    draw_by_documents,
    draw_by_group,
    draw_by_seconds,
)
from langchain_sift.report.plots.svg import drawing, png_of, standing_alone, svg_of
from langchain_sift.report.plots.uncertainty import draw_uncertainty, draw_variance
from langchain_sift.report.report import Report

require("compare", "matplotlib")

from matplotlib.figure import Figure  # noqa: E402


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
        "groups": ("Quality by group", draw_by_group),
        "documents": ("Quality against documents", draw_by_documents),
        "seconds": ("Quality against time", draw_by_seconds),
        "variance": ("Remaining uncertainty", draw_variance),
        "sigma": ("Uncertainty against gain", draw_uncertainty),
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
