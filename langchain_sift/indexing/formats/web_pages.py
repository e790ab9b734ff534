"""Read the text of HTML pages."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from langchain_sift.errors import CorpusError
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
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read_web_page(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of an HTML file, with each block element on separate lines.

    Scripts, styles, templates and comments are not part of it.
    """
    content = read_bytes(path)
    markup = decode(path, content, reading.encoding, declared_encoding(content))
    try:
        page = _Page(markup)
        yield Record("\n".join(page.lines), headings=tuple(page.headings))
    except AssertionError as error:  # only older parsers of Python have any
        raise CorpusError(
            f"{path}: not HTML that can be parsed: correct its declarations (<!...>), or save it "
            "again"
        ) from error


def text_of_html(markup: str) -> str:
    """Return the text of a page."""
    return "\n".join(_Page(markup).lines)


class _Page(HTMLParser):
    """Collects the lines of a page in one pass: the time is linear in its length."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self.headings: list[Heading] = []
        self._line: list[str] = []
        self._unseen: list[str] = []  # the open elements that are not shown
        self._pre = 0  # number of open <pre>
        self._level = 0  # level of the open heading
        self.feed(markup)
        self.close()
        self._end_line()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin a line with a block."""
        del attrs
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif self._unseen:
            return
        elif tag in _CELLS:
            self._line.append(" ")
        elif tag in _BLOCKS:
            self._end_line()
            self._pre += tag == "pre"
            self._level = _HEADINGS.get(tag, self._level)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Treat <p/> as browsers do: as <p>."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """End a line with a block."""
        if tag in _UNSEEN:
            if tag in self._unseen:  # with those that were left open in it
                del self._unseen[len(self._unseen) - 1 - self._unseen[::-1].index(tag) :]
        elif not self._unseen and tag in _BLOCKS:
            self._end_line()
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
        if self._level and lines:
            self.headings.append(Heading(len(self.lines), self._level, " ".join(lines)))
        self.lines += lines
