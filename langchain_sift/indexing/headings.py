"""Keep headings with their texts, and name the headings above a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from langchain_sift.indexing.formats.records import Heading

BOUND = "\r"
"""Stands for the line ends between a heading and its text. Texts of files have no others."""

# The end of a heading's line, with Markdown's underline and the blank lines before the text.
_AFTER_HEADING = re.compile(r"\n(?:(?:=+|-+)[ \t]*(?:\n|$))?[ \t\n]*")
_BETWEEN = " > "


def with_bound_headings(text: str, starts: Sequence[int], headings: Iterable[Heading]) -> str:
    """Return a text that is not split after a heading: `BOUND` ends the lines there.

    Each character stays where it is.

    Args:
        text: The text.
        starts: Where each line begins.
        headings: The headings of the text.
    """
    parts, done = [], 0
    for heading in headings:
        after = _AFTER_HEADING.search(text, starts[heading.line])
        if after is not None and after.start() >= done:
            parts += [text[done : after.start()], after.group().replace("\n", BOUND)]
            done = after.end()
    return "".join([*parts, text[done:]])


def heading_paths(headings: Iterable[Heading]) -> list[str]:
    """Return the titles above the text before the first heading, and after each one."""
    path: list[Heading] = []
    paths = [""]
    for heading in headings:
        path = [*(above for above in path if above.level < heading.level), heading]
        paths.append(_BETWEEN.join(each.title for each in path))
    return paths
