"""Find the headings of Markdown."""

from __future__ import annotations

import re

from langchain_sift.indexing.formats.records import Heading

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*\r?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*\r?")
_OTHER_BLOCK = re.compile(r"\s*$| {0,3}(?:[-*+>|]|\d+[.)])\s| {4}")


def headings_of(text: str) -> tuple[Heading, ...]:
    """Return the headings of Markdown: lines with #, and lines underlined with = or -.

    Lines within code are none, and neither is front matter.
    """
    lines = text.split("\n")
    headings: list[Heading] = []
    fence = ""
    for number, line in enumerate(lines[_front_matter(lines) :], start=_front_matter(lines)):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        elif match := _HEADING.fullmatch(line):
            headings.append(Heading(number, len(match[1]), (match[2] or "").strip()))
        elif number and (match := _UNDERLINE.fullmatch(line)):
            above = lines[number - 1]
            if not _OTHER_BLOCK.match(above) and not _HEADING.fullmatch(above):
                headings.append(Heading(number - 1, 1 if "=" in match[1] else 2, above.strip()))
    return tuple(heading for heading in headings if heading.title)


def _front_matter(lines: list[str]) -> int:
    """Return the number of lines of metadata at the beginning, between lines of ---."""
    if lines[0].strip() != "---":
        return 0
    ends = (n for n, line in enumerate(lines[1:], start=1) if line.strip() in ("---", "..."))
    return next(ends, -1) + 1
