"""Read books."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.encodings import declared_encoding, decode, read_archive
from langchain_sift.indexing.formats.records import Heading, Reading, Record
from langchain_sift.indexing.formats.web_pages import lines_of_html

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
    lines: list[str] = []
    headings: list[Heading] = []
    for content in chapters:
        markup = decode(path, content, reading.encoding, declared_encoding(content))
        new, found = lines_of_html(markup)
        headings += (replace(each, line=each.line + len(lines)) for each in found)
        lines += new
    yield Record("\n".join(lines), fields, headings=tuple(headings))
    if missing := [name for name in names if name not in there]:
        yield Record("", note=f"{path}: the book lacks its chapters {', '.join(missing)}")


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
