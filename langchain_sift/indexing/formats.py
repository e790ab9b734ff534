"""Text out of files, a function for each format."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.corpus import at_line, parse_line, read_bytes, read_lines

require("compare", "bs4", "pypdf")

from bs4 import BeautifulSoup, ParserRejectedMarkup, Tag, UnusualUsageWarning  # noqa: E402
from bs4.element import NavigableString  # noqa: E402
from pypdf import PdfReader  # noqa: E402
from pypdf.errors import DependencyError, FileNotDecryptedError  # noqa: E402

# Texts, each with what else is said of it, and the number of its row where it is one.
Read = Iterator[tuple[str, Mapping[str, Any], int | None]]

MARKDOWN = (".md", ".markdown")
_UNSEEN = ["script", "style", "template"]
_BLOCK_NAMES = """
    html head title body main header footer nav section article aside search address div p pre
    blockquote center hr h1 h2 h3 h4 h5 h6 hgroup figure figcaption details summary dialog
    ul ol menu dir li dl dt dd form fieldset legend select optgroup option textarea
    table caption thead tbody tfoot tr
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CELLS = ("td", "th")
# A cell may be a document: the csv module's own limit is 128 KiB.
_LONGEST_CELL = 2**31 - 1


def reader_of(path: Path) -> Callable[[Path], Read] | None:
    """Return the function that reads a file of this name; None if there is none."""
    name = path.name.lower()
    return next((reader for ending, reader in READERS.items() if name.endswith(ending)), None)


def _read_text(path: Path) -> Read:
    yield "\n".join(read_lines(path)), {}, None


def _read_html(path: Path) -> Read:
    markup = "\n".join(read_lines(path))
    try:
        # Whether it is a web page is not for a parser to doubt: the file's name says so.
        with warnings.catch_warnings(action="ignore", category=UnusualUsageWarning):
            page = BeautifulSoup(markup, "html.parser")
    except ParserRejectedMarkup as error:
        raise CorpusError(
            f"{path}: not HTML that can be parsed: mend its declarations (<!...>), or save it anew"
        ) from error
    yield "\n".join(_lines_of(page)), {}, None


def _lines_of(page: BeautifulSoup) -> Iterator[str]:
    """Yield a page's text, each block element's on lines of its own."""
    for tag in page(_UNSEEN):
        tag.decompose()
    line: list[str] = []
    block: Tag | None = None
    for node in page.descendants:
        if isinstance(node, Tag):
            own = node if node.name in _BLOCKS else block
            text, ends = " " if node.name in _CELLS else "", node.name == "br"
        elif type(node) is NavigableString:  # and no comment
            own = next((parent for parent in node.parents if parent.name in _BLOCKS), None)
            text, ends = str(node), False
        else:
            continue
        if ends or own is not block:
            yield from _shown("".join(line), block)
            line, block = [], own
        line.append(text)
    yield from _shown("".join(line), block)


def _shown(text: str, block: Tag | None) -> list[str]:
    """Return the lines of a text as they are shown: outside <pre> space is only space."""
    if block is not None and block.name == "pre":
        return [line.rstrip() for line in text.strip("\n").split("\n")]
    return [line] if (line := " ".join(text.split())) else []


def _read_pdf(path: Path) -> Read:
    content = read_bytes(path)
    try:
        for number, page in enumerate(PdfReader(io.BytesIO(content)).pages, start=1):
            yield page.extract_text(), {"page": number}, None
    except (FileNotDecryptedError, DependencyError) as error:
        raise CorpusError(f"{path}: an encrypted PDF: save it without a password") from error
    except Exception as error:
        # A broken PDF breaks its parser in many ways, and the messages hold what stood there.
        raise CorpusError(
            f"{path}: not a PDF that can be read ({type(error).__name__}): save it anew"
        ) from error


def _read_jsonl(path: Path) -> Read:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            row = parse_line(path, number, line)
            yield row.pop("text"), {**row, "line": number}, number


def _read_csv(path: Path) -> Read:
    (_, header), *rows = _csv_rows(path) or [(0, [])]
    names = [name.strip() for name in header]
    for number, (line, cells) in enumerate(rows, start=1):
        if len(cells) > len(names):
            what = (
                f"{len(cells)} cells, and the first row names {len(names)}: a cell that holds a "
                'comma or a line break has to stand between " and "'
            )
            raise CorpusError(at_line(path, line, what))
        named = list(zip(names, cells, strict=False))
        texts = [cell for name, cell in named if name == "text"]
        if "text" in names:
            others = {name: cell for name, cell in named if name != "text"}
            yield "".join(texts), {**others, "row": number}, number
        elif any(cell.strip() for cell in cells):
            text = "\n".join(f"{name}: {cell}" for name, cell in named)
            yield text, {"row": number}, number


def _csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, with the lines that they end in."""
    text = io.StringIO("\n".join(read_lines(path)), newline="")
    reader = csv.reader(text, strict=True)
    try:
        with _long_cells():
            return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        what = f"not CSV ({error}): a quotation mark within a cell has to be doubled"
        raise CorpusError(at_line(path, reader.line_num, what)) from error


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


READERS: Mapping[str, Callable[[Path], Read]] = {
    ".txt": _read_text,
    **dict.fromkeys(MARKDOWN, _read_text),
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
}
"""By the ending of a file's name."""
