"""A user's documents and prompts, from files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_sift.errors import CorpusError

_LINES = (".jsonl", ".jsonl.gz")
_TEXTS = (".txt", ".md")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text that the methods are compared on."""

    id: str
    text: str
    group: str = "all"
    """What it is filed under in the report, such as its domain."""


def read_corpus(path: Path) -> list[Document]:
    """Return the documents of a file or of all files in a folder, in the order of their names.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file with an object on each line that has a "text" and
            may have an "id", the rest being metadata; a `.txt` or `.md` file, which is one
            document; or a folder of such files.

    Raises:
        CorpusError: If a file is not what it should be; the message names file and line.
    """
    files = _files_of(path)
    several = len(files) > 1
    seen: set[str] = set()
    documents = []
    for file in files:
        for line, row in _rows(file):
            place = str(file.relative_to(path)) if several else file.name
            identifier = str(row.pop("id", None) or (place if line is None else f"{place}:{line}"))
            if identifier in seen:
                raise CorpusError(_at(file, line, f"the id {identifier!r} was there before"))
            seen.add(identifier)
            text = row.pop("text")
            metadata = {key: value for key, value in row.items() if _is_scalar(value)}
            documents.append(Document(id=identifier, page_content=text, metadata=metadata))
    return documents


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file or folder, in the formats of `read_corpus`.

    A row's "group" or "domain" is what it is filed under.

    Raises:
        CorpusError: As `read_corpus`, and if there is no prompt.
    """
    documents = read_corpus(path)
    if not documents:
        msg = f"{path}: no prompt in it"
        raise CorpusError(msg)
    return [
        Prompt(
            id=str(document.id),
            text=document.page_content,
            group=str(document.metadata.get("group") or document.metadata.get("domain") or "all"),
        )
        for document in documents
    ]


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        msg = f"{path}: no such file or folder"
        raise CorpusError(msg)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(_LINES + _TEXTS))
    if not files:
        msg = f"{path}: no file in it ends with one of {', '.join(_LINES + _TEXTS)}"
        raise CorpusError(msg)
    return files


def _rows(file: Path) -> Iterator[tuple[int | None, dict[str, Any]]]:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        msg = f"{file}: cannot be read: {error}"
        raise CorpusError(msg) from error
    lines = [_decode(file, n, line) for n, line in enumerate(content.split(b"\n"), start=1)]
    if not file.name.endswith(_LINES):
        yield None, {"text": "\n".join(lines)}
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parse(file, number, line)


def _decode(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {error.start + 1} of the line: save the file as UTF-8"
        raise CorpusError(_at(file, number, what)) from error


def _parse(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        what = f"not JSON ({error}): a .jsonl file has one object on each line"
        raise CorpusError(_at(file, number, what)) from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        what = 'not an object with a string under "text"'
        raise CorpusError(_at(file, number, what))
    return row


def _at(file: Path, number: int | None, what: str) -> str:
    return f"{file}: {what}" if number is None else f"{file}, line {number}: {what}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
