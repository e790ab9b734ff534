"""Read the objects of JSON files."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.cells import with_timestamps
from langchain_sift.indexing.formats.encodings import read_text
from langchain_sift.indexing.formats.records import TEXT_KEYS, Reading, Record

JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
JSON = (".json", ".json.gz")

_ESCAPED = re.compile(
    r"(?<!\\)((?:\\\\)*)"  # backslashes that are characters
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})"
)
"""An escaped character, as `json.dumps` writes those that are not ASCII."""


def read_json_lines(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of each object of a file with an object on each line."""
    lines = read_text(path, reading.encoding).split("\n")
    for number, row in _objects(path, lines, reading.text_keys or TEXT_KEYS):
        yield _record(row, reading, "line", number)


def read_json(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of each object in the list of a JSON file, or on its lines.

    Other files are one text, also those that are not strictly JSON, such as settings with comments.
    """
    text, wanted = read_text(path, reading.encoding), reading.text_keys or TEXT_KEYS
    unit, rows = "item", dict[int, Any]()
    try:
        found = json.loads(text)
        rows = dict(enumerate(found if isinstance(found, list) else [], start=1))
    except (ValueError, RecursionError):
        with suppress(CorpusError):
            unit, rows = "line", dict(_objects(path, text.split("\n"), wanted))
    if rows and all(_has_text(row, wanted) for row in rows.values()):
        for number, row in rows.items():
            yield _record(row, reading, unit, number)
    else:
        yield Record(_ESCAPED.sub(_unescaped, text), has_lines_of_file=True)


def _unescaped(match: re.Match[str]) -> str:
    """Return an escaped character; marks of JSON, control characters and halves of pairs stay."""
    text: str = json.loads(f'"{match[2]}"')
    stays = text in {'"', "\\"} or unicodedata.category(text[0]) in {"Cc", "Cs", "Zl", "Zp"}
    return match[0] if stays else match[1] + text


def _record(row: dict[str, object], reading: Reading, unit: str, number: int) -> Record:
    """Return the text of an object with its other fields."""
    keys = [key for key in reading.text_keys if isinstance(row.get(key), str)]
    if not keys:  # the first that holds more than space
        there = [key for key in TEXT_KEYS if isinstance(row.get(key), str)]
        keys = [next((key for key in there if str(row[key]).strip()), there[0])]
    others = {key: value for key, value in row.items() if key not in keys}
    inner = others.pop("metadata", None)
    if isinstance(inner, dict):  # as in documents of LangChain's
        hidden = {key: value for key, value in inner.items() if key in others}
        others = {**inner, **others, **({"metadata": hidden} if hidden else {})}
    elif inner is not None:
        others["metadata"] = inner
    fields = with_timestamps(others)
    return Record("\n".join(str(row[key]) for key in keys), fields, unit, number)


def _has_text(row: object, keys: Sequence[str]) -> bool:
    return isinstance(row, dict) and any(isinstance(row.get(key), str) for key in keys)


def read_objects(
    file: Path, text_keys: Sequence[str] = ("text",)
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the objects on the lines of a file with their line numbers, from 1.

    Args:
        file: The file; its blank lines are skipped.
        text_keys: Each object must have a string under at least one of these keys. Empty means
            that it may have any.

    Raises:
        CorpusError: If the file cannot be read, or a line is not such an object.
    """
    yield from _objects(file, read_text(file).split("\n"), text_keys)


def _objects(
    file: Path, lines: Sequence[str], text_keys: Sequence[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(lines, start=1):
        content = line.lstrip("\ufeff")  # of a file that others were appended to
        if content.strip():
            yield number, _parse_object(file, number, content, text_keys)


def _parse_object(
    file: Path, number: int, line: str, text_keys: Sequence[str]
) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{file}, line {number}: not JSON ({error}): a .jsonl file has one object on each line"
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(
            f"{file}, line {number}: not an object, but a {type(row).__name__}: a .jsonl file "
            "has one object on each line; if the file is one list, name it .json"
        )
    if text_keys and not _has_text(row, text_keys):
        keys = " or ".join(f'"{key}"' for key in text_keys)
        raise CorpusError(
            f"{file}, line {number}: not an object with a string under {keys}: name the key of the "
            "text, such as --text-key body"
        )
    return row
