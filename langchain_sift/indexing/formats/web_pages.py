"""Read the text of HTML pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

from langchain_sift.indexing.formats.encodings import (
    declared_encoding,
    decode,
    read_bytes,
)
from langchain_sift.indexing.formats.records import Heading, Reading, Record

_UNSEEN = frozenset({"script", "style", "template"})
_BLOCK_NAMES = """
    html head title body main header footer nav section article aside search address div p pre
    blockquote center hr h1 h2 h3 h4 h5 h6 hgroup figure figcaption details summary dialog
    ul ol menu dir li dl dt dd form fieldset legend select optgroup option textarea
    table caption thead tbody tfoot tr br
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CELLS = frozenset({"td", "th"})
# The number of a character; Python parses no more than 4300 digits.
_ENDLESS_NUMBER = re.compile(r"&#\d{20,};?", re.ASCII)
_COMMENT = re.compile("<!--(?:-?>|.*?--!?>)", re.DOTALL)
_OF_HEAD = {"html", "head", "title", "meta", "link", "base", "noscript"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


@dataclass(frozen=True, slots=True)
class WebPage:
    """The text of a page."""

    title: str
    """The title in its head, which browsers do not show in the page; "" if it has none."""

    lines: tuple[str, ...]
    headings: tuple[Heading, ...]

    @classmethod
    def of(cls, markup: str) -> WebPage:
        """Return the text of a page, with each block element on separate lines.

        Scripts, styles, templates and comments are not part of it.
        """
        page = _Page(_ENDLESS_NUMBER.sub("&#xFFFD;", markup))
        return cls(page.title, tuple(page.lines), tuple(page.headings))

    def with_title(self) -> WebPage:
        """Return the page with its title as the first line, unless a heading repeats it."""
        if not self.title or self.title in (each.title for each in self.headings):
            return self
        below = tuple(replace(each, line=each.line + 1) for each in self.headings)
        return WebPage(self.title, (self.title, *self.lines), below)


def read_web_page(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of an HTML file, with its title."""
    content = read_bytes(path)
    markup = decode(path, content, reading.encoding, declared_encoding(content))
    page = WebPage.of(markup).with_title()
    yield Record("\n".join(page.lines), headings=page.headings)


def text_of_html(markup: str) -> str:
    """Return the text of a page, with its title."""
    return "\n".join(WebPage.of(markup).with_title().lines)


class _Page(HTMLParser):
    """Collects the lines of a page in one pass: the time is linear in its length.

    As in browsers, a comment ends with the page at the latest, and a tag that does not end is left
    out. `HTMLParser` of Python 3.11 to 3.13 takes either for text then, and looks for the end again
    from each of its characters.
    """

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.lines: list[str] = []
        self.headings: list[Heading] = []
        self._line: list[str] = []
        self._unseen: list[str] = []  # the open elements that are not shown
        self._open: Counter[str] = Counter()  # their numbers
        self._pre = 0  # number of open <pre>
        self._level = 0  # level of the open heading
        self._in_title = False  # of the page: others are those of drawings
        self._in_body = False
        self.feed(markup)
        if not self.rawdata.startswith("<"):  # a tag that does not end
            self.close()
        self._end_line()

    def parse_comment(self, i: int, report: bool = True) -> int:  # noqa: FBT001 - as above
        """Return the end of a comment."""
        del report
        match = _COMMENT.match(self.rawdata, i)
        return len(self.rawdata) if match is None else match.end()

    def parse_marked_section(self, i: int, report: bool = True) -> int:  # noqa: FBT001
        """Return the end of <![...>, which is a comment outside of XML."""
        return self.parse_bogus_comment(i, report)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin a line with a block."""
        del attrs
        if tag in _UNSEEN:
            self._unseen.append(tag)
            self._open[tag] += 1
        elif self._unseen:
            return
        self._in_body |= tag not in _OF_HEAD
        if tag in _CELLS:
            self._line.append(" ")
        elif tag in _BLOCKS:
            self._end_line()
            self._in_title = tag == "title" and not self.title and not self._in_body
            self._pre += tag == "pre"
            self._level = _HEADINGS.get(tag, self._level)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Treat <p/> as browsers do: as <p>. But <script/> hides nothing, as in XHTML."""
        if tag not in _UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """End a line with a block."""
        if tag in _UNSEEN:
            found = not self._open[tag]
            while not found:  # with those that were left open in it
                last = self._unseen.pop()
                self._open[last] -= 1
                found = last == tag
        elif not self._unseen and tag in _BLOCKS:
            self._end_line()
            self._in_title = False
            self._pre = max(0, self._pre - (tag == "pre"))
            self._level = 0 if tag in _HEADINGS else self._level

    def handle_data(self, data: str) -> None:
        """Add text to the line."""
        if not self._unseen:
            self._line.append(data)

    def _end_line(self) -> None:
        """Add the line as a browser shows it: it collapses space outside of <pre>."""
        text = "".join(self._line)
        self._line.clear()
        if self._pre:
            lines = [line.rstrip() for line in text.strip("\n").split("\n")] if text else []
        else:
            lines = [line] if (line := " ".join(text.split())) else []
        if self._in_title:
            self.title = " ".join(lines)
            return
        if self._level and lines:
            self.headings.append(Heading(len(self.lines), self._level, " ".join(lines)))
        self.lines += lines
