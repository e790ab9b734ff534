"""Figures as SVG that can stand in a page beside others, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from langchain_sift.extras import require

require("compare", "matplotlib")

from matplotlib import style  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

# A color that nothing else has; it becomes `currentColor`, so that text and lines are dark on a
# light page and light on a dark one.
INK = "#010203"


FONT_SIZE = 9.0
_STYLE = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
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
    return re.sub(r"<[^>]+>", lambda tag: _rewrite_tag(tag[0], name), svg).strip()


def _rewrite_tag(tag: str, name: str) -> str:
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version|xmlns:xlink)="[^"]*"', "", tag)
        tag = f'<svg role="img" stroke-linejoin="round"{tag.removeprefix("<svg")}'
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", tag)
