"""Read books."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.encodings import declared_encoding, decode, read_archive
from langchain_sift.indexing.formats.records import Heading, Reading, Record
from langchain_sift.indexing.formats.web_pages import WebPage

_CONTAINER = "META-INF/container.xml"
_FIELDS = ("title", "creator", "language")


def read_book(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the chapters of an `.epub` file as one text, with its title, creator and language."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_archive(path))) as archive:
            names, fields = _package(archive)
            there = {*archive.namelist()}
            chapters = [archive.read(name) for name in names if name in there]
    except (
        *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, LookupError, ValueError),
        *(NotImplementedError, RuntimeError, EOFError),  # other ways to pack, or a password
    ) as error:
        raise CorpusError(
            f"{path}: not a book that can be read ({type(error).__name__}): save it again"
        ) from error
    pages = [
        WebPage.of(decode(path, content, reading.encoding, declared_encoding(content)))
        for content in chapters
    ]
    lines: list[str] = []
    headings: list[Heading] = []
    for page in _titled(pages, fields.get("title")):
        headings += (replace(each, line=each.line + len(lines)) for each in page.headings)
        lines += page.lines
    yield Record("\n".join(lines), fields, headings=tuple(headings))
    if missing := [name for name in names if name not in there]:
        yield Record("", note=f"{path}: the book lacks its chapters {', '.join(missing)}")


def _titled(pages: Sequence[WebPage], book: object) -> Iterator[WebPage]:
    """Yield chapters; one without a heading has its title as one, if no other has the same.

    Readers of books show no titles, and many a chapter has that of the book.
    """
    counts = Counter(page.title for page in pages)
    for page in pages:
        is_own = bool(page.title) and counts[page.title] == 1 and page.title != book
        if not is_own or page.headings or not page.lines:
            yield page
            continue
        first = () if page.lines[0] == page.title else (page.title,)
        yield WebPage(page.title, (*first, *page.lines), (Heading(0, 1, page.title),))


def _package(archive: zipfile.ZipFile) -> tuple[list[str], dict[str, object]]:
    """Return the names of the chapters in their order, and what the book tells about itself."""
    root = _parsed(archive, _CONTAINER).find(".//{*}rootfile")
    name = "" if root is None else root.get("full-path", "")
    package = _parsed(archive, name)
    hrefs = {item.get("id"): item.get("href", "") for item in package.iterfind(".//{*}item")}
    spine = [hrefs.get(item.get("idref"), "") for item in package.iterfind(".//{*}itemref")]
    folder = posixpath.dirname(name)
    paths = (posixpath.normpath(posixpath.join(folder, unquote(href))) for href in spine if href)
    names = [*dict.fromkeys(paths)]  # each once: the limit of what unpacks is that of the archive
    fields = {field: package.findtext(f".//{{*}}metadata/{{*}}{field}") for field in _FIELDS}
    return names, {field: text.strip() for field, text in fields.items() if text}


def _parsed(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    # Its parser, Expat, resolves no external entities and limits the others.
    return ElementTree.fromstring(archive.read(name))  # noqa: S314
