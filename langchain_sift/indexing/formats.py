"""Read the texts of a file, with one function for each format."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.errors import CorpusError, require

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

# Only HTML and PDF files need a parser; their readers import it.
# ruff: noqa: PLC0415

MARKDOWN = (".md", ".markdown")
JSON_LINES = (".jsonl", ".jsonl.gz")
_UNSEEN = ["script", "style", "template"]
_BLOCK_NAMES = """
    html head title body main header footer nav section article aside search address div p pre
    blockquote center hr h1 h2 h3 h4 h5 h6 hgroup figure figcaption details summary dialog
    ul ol menu dir li dl dt dd form fieldset legend select optgroup option textarea
    table caption thead tbody tfoot tr
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CELLS = ("td", "th")
# A cell may be a document: the csv module's default limit is 128 KiB.
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Record:
    """A text of a file, with its position and its other fields."""

    text: str

    fields: Mapping[str, object] = field(default_factory=dict)
    """The other fields of a JSON object or a CSV row, as the file has them."""

    unit: str = ""
    """Kind of the part that holds the text: "line", "row" or "page". Empty means the file."""

    number: int | None = None
    """Number of that part, from 1. None means the whole file."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a text: a file, and a line, row or page in it."""

    file: str
    """Name of the file, within the folder that was named."""

    unit: str = ""
    number: int | None = None

    @property
    def id(self) -> str:
        """The default id of the text."""
        return self.file if self.number is None else f"{self.file}:{self.number}"

    def __str__(self) -> str:
        """Return the location for a message."""
        return self.file if self.number is None else f"{self.file}, {self.unit} {self.number}"


Reader = Callable[[Path], Iterator[Record]]


def reader_of(path: Path) -> Reader | None:
    """Return the function that reads files of this name; None if the format is unknown."""
    name = path.name.lower()
    return next((reader for ending, reader in READERS.items() if name.endswith(ending)), None)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a file without its byte order mark; unpack it if it ends with `.gz`.

    Raises:
        CorpusError: If the file cannot be read or is not UTF-8.
    """
    content = _read_bytes(file)
    if file.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"{file}: cannot be read: {error}") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    return [_decode(file, n, line) for n, line in enumerate(content.split(b"\n"), start=1)]


def read_objects(
    file: Path, text_keys: Sequence[str] = ("text",)
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the objects of a `.jsonl` or `.jsonl.gz` file with their line numbers, from 1.

    Args:
        file: The file; its blank lines are skipped.
        text_keys: Each object must have a string under at least one of these keys. Empty means
            that it may have any.

    Raises:
        CorpusError: If the file cannot be read, or a line is not such an object.
    """
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield number, _parse_object(file, number, line, text_keys)


def _parse_object(
    file: Path, number: int, line: str, text_keys: Sequence[str]
) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{file}, line {number}: not JSON ({error}): a .jsonl file has one object on each line"
        ) from error
    if not isinstance(row, dict) or (
        text_keys and not any(isinstance(row.get(key), str) for key in text_keys)
    ):
        keys = " or ".join(f'"{key}"' for key in text_keys)
        raise CorpusError(f"{file}, line {number}: not an object with a string under {keys}")
    return row


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorpusError(f"{file}: cannot be read: {error}") from error


def _decode(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}, line {number}: not UTF-8 at byte {error.start + 1} of the line: save the "
            "file as UTF-8"
        ) from error


def _read_text(path: Path) -> Iterator[Record]:
    yield Record("\n".join(read_lines(path)))


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, row in read_objects(path):
        others = {key: value for key, value in row.items() if key != "text"}
        yield Record(str(row["text"]), others, "line", number)


def _read_html(path: Path) -> Iterator[Record]:
    require("compare", "bs4")
    from bs4 import BeautifulSoup, ParserRejectedMarkup, UnusualUsageWarning

    markup = "\n".join(read_lines(path))
    try:
        # The parser warns if the text does not look like HTML; the file's name says that it is.
        with warnings.catch_warnings(action="ignore", category=UnusualUsageWarning):
            page = BeautifulSoup(markup, "html.parser")
    except ParserRejectedMarkup as error:
        raise CorpusError(
            f"{path}: not HTML that can be parsed: correct its declarations (<!...>), or save it "
            "again"
        ) from error
    yield Record("\n".join(_lines_of(page)))


def _lines_of(page: BeautifulSoup) -> Iterator[str]:
    """Yield the text of a page, with each block element on separate lines."""
    from bs4 import Tag
    from bs4.element import NavigableString

    for tag in page(_UNSEEN):
        tag.decompose()
    line: list[str] = []
    block: Tag | None = None
    for node in page.descendants:
        if isinstance(node, Tag):
            current = node if node.name in _BLOCKS else block
            text, ends = " " if node.name in _CELLS else "", node.name == "br"
        elif type(node) is NavigableString:  # its subclasses are comments and declarations
            current = next((parent for parent in node.parents if parent.name in _BLOCKS), None)
            text, ends = str(node), False
        else:
            continue
        if ends or current is not block:
            yield from _rendered("".join(line), block)
            line, block = [], current
        line.append(text)
    yield from _rendered("".join(line), block)


def _rendered(text: str, block: Tag | None) -> list[str]:
    """Return the lines of a text as a browser shows them: it collapses space outside of <pre>."""
    if block is not None and block.name == "pre":
        return [line.rstrip() for line in text.strip("\n").split("\n")]
    return [line] if (line := " ".join(text.split())) else []


def _read_pdf(path: Path) -> Iterator[Record]:
    require("compare", "pypdf")
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    content = _read_bytes(path)
    try:
        for number, page in enumerate(PdfReader(io.BytesIO(content)).pages, start=1):
            yield Record(page.extract_text(), {}, "page", number)
    except (FileNotDecryptedError, DependencyError) as error:
        raise CorpusError(f"{path}: an encrypted PDF: save it without a password") from error
    except Exception as error:
        # A damaged PDF breaks its parser in many ways, and the messages quote its content.
        raise CorpusError(
            f"{path}: not a PDF that can be read ({type(error).__name__}): save it again"
        ) from error


def _read_csv(path: Path) -> Iterator[Record]:
    (_, header), *rows = csv_rows(path) or [(0, [])]
    names = [name.strip() for name in header]
    for number, (line, cells) in enumerate(rows, start=1):
        if len(cells) > len(names):
            raise CorpusError(
                f"{path}, line {line}: {len(cells)} cells, and the first row names {len(names)}: "
                'put a cell that holds a comma or a line break between " and "'
            )
        named = list(zip(names, cells, strict=False))
        if "text" in names:
            others = {name: cell for name, cell in named if name != "text"}
            yield Record("".join(c for name, c in named if name == "text"), others, "row", number)
        elif any(cell.strip() for cell in cells):
            text = "\n".join(f"{name}: {cell}" for name, cell in named)
            yield Record(text, {}, "row", number)


def csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, with the number of each one's last line.

    Raises:
        CorpusError: If the file cannot be read or is not CSV.
    """
    text = io.StringIO("\n".join(read_lines(path)), newline="")
    reader = csv.reader(text, strict=True)
    try:
        with _long_cells():
            return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num}: not CSV ({error}): double a quotation mark within "
            "a cell"
        ) from error


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


READERS: Mapping[str, Reader] = {
    ".txt": _read_text,
    **dict.fromkeys(MARKDOWN, _read_text),
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    **dict.fromkeys(JSON_LINES, _read_jsonl),
    ".csv": _read_csv,
}
"""The reader of each format, by the ending of a file's name."""
