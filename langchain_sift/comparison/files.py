"""A user's files of many kinds: found, read and split into chunks."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_sift.comparison.corpus import (
    at_line,
    is_scalar,
    parse_line,
    read_bytes,
    read_lines,
)
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.extras import require

require("compare", "bs4", "langchain_text_splitters", "pypdf")

from bs4 import BeautifulSoup, ParserRejectedMarkup, Tag, UnusualUsageWarning  # noqa: E402
from bs4.element import NavigableString  # noqa: E402
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter  # noqa: E402
from pypdf import PdfReader  # noqa: E402
from pypdf.errors import DependencyError, FileNotDecryptedError  # noqa: E402

_MARKDOWN = (".md", ".markdown")
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
# What Chroma does not take: a key that begins so, a key of its own, and a larger integer.
_NO_KEYS = ("#", "$")
_RESERVED_KEY = "chroma:document"
_INTEGERS = range(-(2**63), 2**63)

Read = Iterator[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to be read."""

    path: Path

    name: str
    """What its documents name as their source: the path within the folder it was found in."""


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What there is to read."""

    files: tuple[SourceFile, ...]

    passed_over: int
    """How many files in the folders are of other kinds."""


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """What was in files."""

    chunks: tuple[Document, ...]
    files: int
    """How many could be read."""

    documents: int
    """How many texts, pages, lines and rows there are in them."""

    unreadable: tuple[str, ...]
    """What was wrong with each file that was passed over."""

    empty: tuple[str, ...]
    """Files without text, such as a PDF of pictures."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are split."""

    size: int = 2000
    """Characters of a chunk at most."""

    overlap: int = 0
    """Characters at most that two neighbours have in common."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: If one is out of range.
        """
        if self.size < 1:
            msg = f"the chunk size must be at least 1, got {self.size}"
            raise ArgumentError(msg)
        if not 0 <= self.overlap < self.size:
            msg = (
                f"the chunk overlap must be at least 0 and below the chunk size of {self.size}, "
                f"got {self.overlap}"
            )
            raise ArgumentError(msg)


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """Return the files of these paths and in these folders, each once, in the order of names.

    Args:
        paths: Files, each of a kind that is read, and folders, where others are passed over.

    Raises:
        CorpusError: If there is no such path, a file is of another kind, or a folder has none
            that is not.
    """
    found: dict[Path, SourceFile] = {}
    others: set[Path] = set()
    for path in paths:
        try:
            inside = [path] if path.is_file() else _files_in(path)
        except OSError as error:
            msg = f"{path}: cannot be read: {error}"
            raise CorpusError(msg) from error
        readable = [file for file in inside if _reader_of(file) is not None]
        if not readable:
            raise CorpusError(_none_readable(path, len(inside)))
        for file in readable:
            name = file.name if file == path else file.relative_to(path).as_posix()
            found.setdefault(file.resolve(), SourceFile(file, name))
        others.update(file.resolve() for file in inside if _reader_of(file) is None)
    return FoundFiles(tuple(found.values()), len(others))


def read_chunks(
    files: Sequence[SourceFile],
    chunking: Chunking,
    *,
    skip_unreadable: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> ReadFiles:
    """Return the chunks of all files.

    Args:
        files: What `find_files` found.
        chunking: How their documents are split.
        skip_unreadable: Whether to go on after a file that cannot be read, without any of it.
        on_file: Called after each file.

    Raises:
        CorpusError: If a file cannot be read, or there is no text in any.
    """
    documents = 0
    chunks: list[Document] = []
    unreadable, empty = [], []
    for file in files:
        try:
            read = read_file(file)
        except CorpusError as error:
            if not skip_unreadable:
                raise
            unreadable.append(str(error))
        else:
            documents += len(read)
            chunks += split(file, read, chunking)
            if not read:
                empty.append(str(file.path))
        on_file()
    if not chunks:
        msg = f"there is no text in what was given (files: {len(files)})"
        if unreadable:
            msg += f"; {len(unreadable)} cannot be read, such as {unreadable[0]}"
        raise CorpusError(msg)
    return ReadFiles(
        tuple(chunks), len(files) - len(unreadable), documents, tuple(unreadable), tuple(empty)
    )


def read_file(file: SourceFile) -> list[Document]:
    """Return the documents of a file that hold text.

    A text, Markdown or HTML file is one document, of a PDF each page is one, of a `.jsonl` or
    `.jsonl.gz` file each line, and of a CSV file each row. The metadata have the source, the
    page, line or row, from 1, and what else a line or row says.

    Raises:
        CorpusError: If the file is not what it should be; the message names file and line.
    """
    reader = _reader_of(file.path)
    if reader is None:
        raise CorpusError(_none_readable(file.path, 1))
    documents = []
    for text, metadata in reader(file.path):
        own = _storable({**metadata, "source": file.name})
        documents.append(Document(_well_formed(text), metadata=own))
    return [document for document in documents if document.page_content.strip()]


def split(file: SourceFile, documents: Iterable[Document], chunking: Chunking) -> list[Document]:
    """Return the chunks of a file's documents, whose ids are hashes of their texts.

    The same text has the same id wherever it stands. No chunk is empty.
    """
    lengths: dict[str, Any] = {"chunk_size": chunking.size, "chunk_overlap": chunking.overlap}
    if file.path.suffix.lower() in _MARKDOWN:
        splitter = RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, **lengths)
    else:
        splitter = RecursiveCharacterTextSplitter(**lengths)
    return [
        Document(text, id=chunk_id(text), metadata=document.metadata.copy())
        for document in documents
        for text in splitter.split_text(document.page_content)
        if text.strip()
    ]


def chunk_id(text: str) -> str:
    """Return what identifies a chunk: the beginning of its text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        msg = f"{folder}: no such file or folder"
        raise CorpusError(msg)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        msg = f"{folder}: the folder is empty"
        raise CorpusError(msg)
    return files


def _none_readable(path: Path, files: int) -> str:
    kinds = ", ".join(_READERS)
    if path.is_dir():
        return f"{path}: none of its {files} files ends with one of {kinds}"
    return f"{path}: not a kind that is read: its name must end with one of {kinds}"


def _reader_of(path: Path) -> Callable[[Path], Read] | None:
    name = path.name.lower()
    return next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)


def _read_text(path: Path) -> Read:
    yield "\n".join(read_lines(path)), {}


def _read_html(path: Path) -> Read:
    markup = "\n".join(read_lines(path))
    try:
        # Whether it is a web page is not for a parser to doubt: the file's name says so.
        with warnings.catch_warnings(action="ignore", category=UnusualUsageWarning):
            page = BeautifulSoup(markup, "html.parser")
    except ParserRejectedMarkup as error:
        msg = (
            f"{path}: not HTML that can be parsed: mend its declarations (<!...>), or save it anew"
        )
        raise CorpusError(msg) from error
    yield "\n".join(_lines_of(page)), {}


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
            yield page.extract_text(), {"page": number}
    except (FileNotDecryptedError, DependencyError) as error:
        msg = f"{path}: an encrypted PDF: save it without a password"
        raise CorpusError(msg) from error
    except Exception as error:
        # A broken PDF breaks its parser in many ways, and the messages hold what stood there.
        msg = f"{path}: not a PDF that can be read ({type(error).__name__}): save it anew"
        raise CorpusError(msg) from error


def _read_jsonl(path: Path) -> Read:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            row = parse_line(path, number, line)
            yield row.pop("text"), {**row, "line": number}


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
            yield "".join(texts), {**others, "row": number}
        elif any(cell.strip() for cell in cells):
            yield "\n".join(f"{name}: {cell}" for name, cell in named), {"row": number}


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


def _storable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Chroma can keep of this."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        name = _well_formed(key)
        if not name or name.startswith(_NO_KEYS) or name == _RESERVED_KEY or not is_scalar(value):
            continue
        if isinstance(value, str):
            found[name] = _well_formed(value)
        elif isinstance(value, int):
            found[name] = value if value in _INTEGERS else str(value)
        elif math.isfinite(value):
            found[name] = value
    return found


def _well_formed(text: str) -> str:
    """Return a text that can be encoded, with lines that end in one way."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\r\n", "\n").replace("\r", "\n")


_READERS: Mapping[str, Callable[[Path], Read]] = {
    ".txt": _read_text,
    **dict.fromkeys(_MARKDOWN, _read_text),
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
}
