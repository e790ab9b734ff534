"""Draw all plots of a protocol: SVG for the page, SVG and PNG as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from langchain_sift.report.file_names import PLOT_NAMES, plot_name
from langchain_sift.report.plots.quality import (
    draw_by_documents,
    draw_by_group,
    draw_by_seconds,
)
from langchain_sift.report.plots.svg import plot_style, png_of, svg_file, svg_of
from langchain_sift.report.plots.uncertainty import draw_uncertainty, draw_variance
from langchain_sift.report.report import Report

_Draw = Callable[[Report, str], tuple[Figure, str] | None]
_DRAWN: tuple[tuple[str, _Draw], ...] = (
    ("Quality by group", draw_by_group),
    ("Quality against documents", draw_by_documents),
    ("Quality against time", draw_by_seconds),
    ("Remaining uncertainty", draw_variance),
    ("Uncertainty against gain", draw_uncertainty),
)
"""The title and the function of each plot, in the order of `PLOT_NAMES`."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of a protocol."""

    name: str
    """Name of its files, without extension."""

    title: str
    caption: str
    svg: str
    """SVG element in the text color of the page, on a transparent background."""

    png: bytes

    @property
    def file(self) -> str:
        """SVG as a file of its own, on an opaque background."""
        return svg_file(self.svg)


def draw_plots(report: Report, protocol: str) -> list[Plot]:
    """Return the plots of a protocol, without those that have no data."""
    plots = []
    for name, (title, draw) in zip(PLOT_NAMES, _DRAWN, strict=True):
        with plot_style():
            drawn = draw(report, protocol)
            if drawn is None:
                continue
            figure, caption = drawn
            identifier = f"{name}-{report.protocols.index(protocol)}"
            svg, png = svg_of(figure, identifier), png_of(figure)
            plots.append(Plot(plot_name(protocol, name), title, caption, svg, png))
    return plots
