"""Set the style of all plots, and export figures as SVG and PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import style
from matplotlib.figure import Figure

from langchain_sift.report.plots.method_styles import INK

FONT_SIZE = 9.0

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
def plot_style() -> Iterator[None]:
    """Draw in the style of the report, whatever the user's configuration of matplotlib is."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Names may be in any script; the reader's browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg_of(figure: Figure, name: str) -> str:
    """Export a figure as an SVG element for a page.

    Only tags are changed, never text: matplotlib escapes `<` in the text of a plot.

    Args:
        figure: The figure.
        name: Prefix of all ids, so that they are unique on the page.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its style sheet would apply to the whole page; attributes of the root are inherited instead.
    svg = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: _rewrite_tag(tag[0], name), svg).strip()


def svg_file(svg: str) -> str:
    """Convert the result of `svg_of` to a file of its own: dark on opaque white."""
    root, rest = svg.split(">", maxsplit=1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', root)
    size = f' width="{box[1]}pt" height="{box[2]}pt"' if box else ""
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    body = rest.replace("currentColor", "#1c1e21")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{root}{size}>\n{background}{body}\n'


def png_of(figure: Figure) -> bytes:
    """Export a figure as PNG, dark on white."""
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
