"""Find the files of a user, and read their documents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from langchain_core.documents import Document

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.beir import BeirFolder
from langchain_sift.indexing.formats import READERS, Location, Record, reader_of
from langchain_sift.ttft.texts import well_formed

Scalar: TypeAlias = str | int | float | bool

# Chroma rejects keys that begin so, its reserved key, and larger integers.
_KEY_PREFIXES = ("#", "$")
_RESERVED_KEY = "chroma:document"
_INTEGERS = range(-(2**63), 2**63)
_ID_KEYS = ("id", "_id")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read, and its name."""

    path: Path

    name: str
    """The default source of its documents: the path within the folder that was named."""


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files to read."""

    files: tuple[SourceFile, ...]

    skipped: int
    """Number of files in the folders that have other formats."""


def find_files(paths: Sequence[Path], *, endings: Sequence[str] = tuple(READERS)) -> FoundFiles:
    """Return the files of these paths and in these folders, each once, sorted within a folder.

    Args:
        paths: Files of a known format, and folders, in which files of other formats are skipped.
        endings: Endings of the names of known formats, in lower case.

    Raises:
        CorpusError: If a path does not exist or cannot be read, a file has another format, or a
            folder has no file of a known format.
    """
    found: dict[Path, SourceFile] = {}
    others: set[Path] = set()
    for path in paths:
        try:
            inside = [path] if path.is_file() else _files_in(path, endings)
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read: {error}") from error
        readable = [file for file in inside if file.name.lower().endswith(tuple(endings))]
        if not readable:
            raise CorpusError(_none_readable(path, len(inside), endings))
        for file in readable:
            name = file.name if file == path else file.relative_to(path).as_posix()
            found.setdefault(file.resolve(), SourceFile(file, name))
        others.update(file.resolve() for file in {*inside} - {*readable})
    return FoundFiles(tuple(found.values()), len(others))


def files_of(
    path: Path | str, *, endings: Sequence[str] = tuple(READERS)
) -> tuple[SourceFile, ...]:
    """Return the files of one path; a single file is named without its folder.

    Raises:
        CorpusError: As `find_files`.
    """
    files = find_files([Path(path)], endings=endings).files
    return files if len(files) > 1 else (SourceFile(files[0].path, files[0].path.name),)


def read_corpus(path: Path | str) -> list[Document]:
    """Read the documents of a file, or of all files in a folder in the order of their names.

    Args:
        path: A file, or a folder of files. A `.txt`, `.md` or `.html` file is one document. So
            is each page of a `.pdf`, each line of a `.jsonl` or `.jsonl.gz` file (an object with
            a "text") and each row of a `.csv` file (its column "text", else all its columns).
            Of a folder in the format of BEIR only corpus.jsonl is read, and a title is put before
            its text.

    Returns:
        The documents that hold more than space. An id is the "id" or "_id" of the line or row, by
        default the name of the file with the number of the line, row or page. The other fields
        are the metadata, as far as Chroma can store them.

    Raises:
        CorpusError: If a file cannot be read, or an id occurs twice; the message names file and
            line.
        MissingExtraError: If an HTML or PDF file is there and its parser is not installed.
    """
    seen: set[str] = set()
    documents = []
    collection = BeirFolder.find(path)
    for file in files_of(path if collection is None else collection.corpus):
        for record in _records(file):
            location = Location(file.name, record.unit, record.number)
            named = (label_of(record.fields, key) for key in _ID_KEYS)
            identifier = next(filter(None, named), location.id)
            if identifier in seen:
                raise CorpusError(f"{location}: the id {identifier!r} occurs twice")
            seen.add(identifier)
            fields = {key: value for key, value in record.fields.items() if key not in _ID_KEYS}
            title = "" if collection is None else label_of(record.fields, "title")
            text = well_formed(f"{title}\n{record.text}" if title else record.text)
            documents.append(Document(id=identifier, page_content=text, metadata=storable(fields)))
    return [document for document in documents if document.page_content.strip()]


def read_file(file: SourceFile) -> list[Document]:
    """Read the documents of a file that hold more than space, for `split`.

    The texts are those of `read_corpus`, with one kind of line end. The metadata have all fields,
    the number of the page, line or row, from 1, and a source. Documents of one source belong
    together, such as the pages of a PDF. A line or row keeps its "source"; without one it is a
    source by itself.

    Raises:
        CorpusError: If the file cannot be read; the message names file and line.
        MissingExtraError: If the parser of its format is not installed.
    """
    documents = []
    for record in _records(file):
        position = {record.unit: record.number} if record.unit else {}
        metadata = storable({**record.fields, **position})
        if metadata.get("source", "") == "":
            location = Location(file.name, record.unit, record.number)
            metadata["source"] = file.name if record.unit == "page" else location.id
        text = well_formed(record.text).replace("\r\n", "\n").replace("\r", "\n")
        documents.append(Document(text, metadata=metadata))
    return [document for document in documents if document.page_content.strip()]


def _records(file: SourceFile) -> Iterator[Record]:
    reader = reader_of(file.path)
    if reader is None:
        raise CorpusError(_none_readable(file.path, 1, tuple(READERS)))
    return reader(file.path)


def storable(metadata: Mapping[str, object]) -> dict[str, Scalar]:
    """Return the part of the metadata that Chroma can store."""
    stored: dict[str, Scalar] = {}
    for key, value in metadata.items():
        name = well_formed(key)
        if not name or name.startswith(_KEY_PREFIXES) or name == _RESERVED_KEY:
            continue
        if isinstance(value, str):
            stored[name] = well_formed(value)
        elif isinstance(value, int):
            stored[name] = value if value in _INTEGERS else str(value)
        elif isinstance(value, float) and math.isfinite(value):
            stored[name] = value
    return stored


def label_of(fields: Mapping[str, object], key: str) -> str:
    """Return the value of a field as text, 0 included; "" if the field is missing or None."""
    value = fields.get(key)
    return "" if value is None else well_formed(str(value))


def _files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such file or folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise CorpusError(
            f"{folder}: the folder is empty: add files that end with one of {', '.join(endings)}"
        )
    return files


def _none_readable(path: Path, files: int, endings: Sequence[str]) -> str:
    kinds = ", ".join(endings)
    if path.is_dir():
        return f"{path}: none of its {files} files ends with one of {kinds}"
    return f"{path}: not a kind that is read: its name must end with one of {kinds}"
