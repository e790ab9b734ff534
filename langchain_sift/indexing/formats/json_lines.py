"""Read the objects of JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.encodings import read_text
from langchain_sift.indexing.formats.records import TEXT_KEYS, Reading, Record

JSON_LINES = (".jsonl", ".jsonl.gz")


def read_json_lines(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of each object of a `.jsonl` or `.jsonl.gz` file."""
    lines = read_text(path, reading.encoding).split("\n")
    for number, row in _objects(path, lines, reading.text_keys or TEXT_KEYS):
        keys = [key for key in reading.text_keys if isinstance(row.get(key), str)]
        keys = keys or [next(key for key in TEXT_KEYS if isinstance(row.get(key), str))]
        others = {key: value for key, value in row.items() if key not in keys}
        inner = row.get("metadata") if keys == ["page_content"] else None
        if isinstance(inner, dict):  # a document of LangChain's
            others = {**inner, **{key: value for key, value in others.items() if key != "metadata"}}
        yield Record("\n".join(str(row[key]) for key in keys), others, "line", number)


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
    yield from _objects(file, read_text(file).split("\n"), text_keys)


def _objects(
    file: Path, lines: Sequence[str], text_keys: Sequence[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parse_object(file, number, line, text_keys)


def _parse_object(
    file: Path, number: int, line: str, text_keys: Sequence[str]
) -> dict[str, object]:
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
