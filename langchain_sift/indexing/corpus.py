"""A user's documents, from files."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_sift.errors import CorpusError
from langchain_sift.ttft.model.tokens import well_formed

_LINES = (".jsonl", ".jsonl.gz")
_TEXTS = (".txt", ".md")

# What Chroma does not take: a key that begins so, a key of its own, and a larger integer.
_NO_KEYS = ("#", "$")
_RESERVED_KEY = "chroma:document"
_INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row was read."""

    name: str
    """Of the file, within the folder."""

    line: int | None
    """From 1; None where the whole file is one."""

    def __str__(self) -> str:
        """Return what identifies it."""
        return self.name if self.line is None else f"{self.name}:{self.line}"

    @property
    def told(self) -> str:
        """What an error calls it."""
        return self.name if self.line is None else f"{self.name}, line {self.line}"


def read_corpus(path: Path) -> list[Document]:
    """Return the documents of a file or of all files in a folder, in the order of their names.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file with an object on each line that has a "text" and
            may have an "id", the rest being metadata; a `.txt` or `.md` file, which is one
            document; or a folder of such files. Texts of nothing but space are passed over.

    Raises:
        CorpusError: If a file is not what it should be; the message names file and line.
    """
    seen: set[str] = set()
    documents = []
    for place, row in read_rows(path):
        identifier = label_of(row, "id") or str(place)
        if identifier in seen:
            raise CorpusError(f"{place.told}: the id {identifier!r} was there before")
        seen.add(identifier)
        others = {key: value for key, value in row.items() if key not in {"id", "text"}}
        text = well_formed(row["text"])
        if text.strip():
            documents.append(Document(id=identifier, page_content=text, metadata=storable(others)))
    return documents


def read_rows(
    path: Path, *, text_keys: Sequence[str] = ("text",)
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield what is in a file, or in all files of a folder, with its place.

    Args:
        path: As in `read_corpus`.
        text_keys: An object must have a string under one of these.

    Raises:
        CorpusError: As `read_corpus`.
    """
    files = _files_of(path)
    for file in files:
        name = file.relative_to(path).as_posix() if len(files) > 1 else file.name
        for line, row in _rows(file, text_keys):
            yield Place(name, line), row


def _files_of(path: Path) -> list[Path]:
    kinds = ", ".join(_LINES + _TEXTS)
    if path.is_file():
        if not _is_read(path):
            raise CorpusError(
                f"{path}: not a kind that is read here: its name must end with one of {kinds}"
            )
        return [path]
    if not path.is_dir():
        raise CorpusError(f"{path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_read(file))
    if not files:
        raise CorpusError(f"{path}: no file in it ends with one of {kinds}")
    return files


def _is_read(file: Path) -> bool:
    return file.name.lower().endswith(_LINES + _TEXTS)


def _rows(file: Path, text_keys: Sequence[str]) -> Iterator[tuple[int | None, dict[str, Any]]]:
    lines = read_lines(file)
    if not file.name.lower().endswith(_LINES):
        yield None, {"text": "\n".join(lines)}
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, parse_line(file, number, line, text_keys)


def read_lines(file: Path) -> list[str]:
    """Return a file's lines, unpacked where its name ends with `.gz`, without a byte order mark.

    Raises:
        CorpusError: If it cannot be read or is not UTF-8.
    """
    content = read_bytes(file)
    if file.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(_unreadable(file, error)) from error
    content = content.removeprefix(codecs.BOM_UTF8)
    return [_decode(file, n, line) for n, line in enumerate(content.split(b"\n"), start=1)]


def read_bytes(file: Path) -> bytes:
    """Return what is in a file.

    Raises:
        CorpusError: If it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorpusError(_unreadable(file, error)) from error


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file}: cannot be read: {error}"


def _decode(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {error.start + 1} of the line: save the file as UTF-8"
        raise CorpusError(at_line(file, number, what)) from error


def parse_line(
    file: Path, number: int, line: str, text_keys: Sequence[str] = ("text",)
) -> dict[str, Any]:
    """Return the object on a line of a `.jsonl` file.

    Raises:
        CorpusError: If there is none, or it has no text.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({error}): a .jsonl file has one object on each line"
        raise CorpusError(at_line(file, number, what)) from error
    if not isinstance(row, dict) or not any(isinstance(row.get(key), str) for key in text_keys):
        keys = " or ".join(f'"{key}"' for key in text_keys)
        what = f"not an object with a string under {keys}"
        raise CorpusError(at_line(file, number, what))
    return row


def at_line(file: Path, number: int, what: str) -> str:
    """Return a message that says in which line of a file something is wrong."""
    return f"{file}, line {number}: {what}"


def label_of(row: Mapping[str, Any], key: str) -> str:
    """Return what a row says under a key, 0 as well; "" if it says nothing."""
    value = row.get(key)
    return "" if value is None else well_formed(str(value))


def storable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Chroma can keep of this."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        name = well_formed(key)
        if not name or name.startswith(_NO_KEYS) or name == _RESERVED_KEY or not is_scalar(value):
            continue
        if isinstance(value, str):
            found[name] = well_formed(value)
        elif isinstance(value, int):
            found[name] = value if value in _INTEGERS else str(value)
        elif math.isfinite(value):
            found[name] = value
    return found


def is_scalar(value: Any) -> bool:
    """Return whether this can be metadata."""
    return isinstance(value, str | int | float | bool)
