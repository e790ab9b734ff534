"""Read the questions of a JSON, CSV or Parquet file, as common datasets are distributed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import Location, csv_rows, read_lines, read_objects
from langchain_sift.questions.question_fields import (
    FROM_0_OR_1,
    PASSAGES,
    QUESTIONS,
    field_name,
    index_text,
)
from langchain_sift.questions.question_lists import list_name, questions_in

_LISTS = ("data", "rows", "examples", "questions")
"""Names of the list of questions in a file that is an object; the second of the rows that Hugging
Face serves, the third of BIG-bench."""

_WITH_LIST = re.compile(r"[^\t]+\t[\"\s]*\[.*\][\"\s]*\Z")
_TRUTH = {"True": True, "False": False}

Row = tuple[Location, Mapping[str, object]]


def rows_of_json(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file: a list of objects, or the form of SQuAD 1.1 and 2.0.

    The list may be in an object, under one of `_LISTS`, or be the lines of the file. An object of
    objects has a question under the id of each, as PubMedQA's, or a passage with questions, as
    DROP's; other objects with several questions as in `questions_in`.

    Raises:
        CorpusError: If the file has another form.
    """
    text = "\n".join(read_lines(file.path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not is_object(text.strip().partition("\n")[0]):
            raise CorpusError(f"{file.path}: not JSON: {error}") from error
        yield from rows_of_lines(file)
        return
    number = 0
    for place, (name, entry) in enumerate(_entries(file, content), start=1):
        location = Location(file.name, "question", number + 1)
        for row in questions_in(location, entry, name or f"{file.name}:{place}"):
            number += 1
            yield Location(file.name, "question", number), {"id": name or None, **row}


def rows_of_lines(file: SourceFile) -> Iterator[Row]:
    """Yield the questions on the lines of a file; those of MRQA have a passage on each.

    Raises:
        CorpusError: If the file cannot be read, or a line is no object.
    """
    for number, entry in read_objects(file.path, text_keys=()):
        location = Location(file.name, "line", number)
        if [*entry] != ["header"]:  # the first line of MRQA
            for row in questions_in(location, entry, location.id):
                yield location, row


def rows_of_parquet(file: SourceFile) -> Iterator[Row]:
    """Yield the rows of a Parquet file, as the Hugging Face hub distributes datasets.

    Raises:
        CorpusError: If the file cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    require("files", "pyarrow")
    from pyarrow import ArrowException  # type: ignore[import-untyped] # noqa: PLC0415 - an extra
    from pyarrow.parquet import read_table  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        rows = read_table(file.path).to_pylist()
    except (OSError, ArrowException) as error:
        raise CorpusError(f"{file.path}: not a Parquet file that can be read: {error}") from error
    for number, entry in enumerate(rows, start=1):
        location = Location(file.name, "row", number)
        for row in questions_in(location, entry, location.id):
            yield location, row


def is_object(line: str) -> bool:
    """Return True if a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _entries(file: SourceFile, content: object) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the objects of a file, with the name of each in an object of objects.

    Raises:
        CorpusError: If the file has another form.
    """
    listed = content
    if isinstance(content, dict):
        lists = {key.casefold(): value for key, value in content.items()}
        found = [lists[key] for key in _LISTS if isinstance(lists.get(key), list)]
        listed = next((one for one in found if all(isinstance(row, dict) for row in one)), None)
        if list_name(content) and (listed is None or any(key in content for key in PASSAGES)):
            return [("", content)]
        if content and all(isinstance(value, dict) for value in content.values()):
            return [*content.items()]
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise CorpusError(
            f"{file.path}: not a list of objects, nor an object with one under "
            f"{', '.join(map(repr, _LISTS))}"
        )
    # The rows of an export to JSON are objects with a number and the row.
    return [("", row["row"] if isinstance(row.get("row"), dict) else row) for row in listed]


def rows_of_csv(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file with a header, or in the form of MMLU, which has none.

    A header names a question, as one of `QUESTIONS`, and the choices A, B, C... have a column each,
    unless there is a column of another name for them. A row of MMLU is a question, its choices,
    and the letter of the correct one; the group is the name of the file. A line of
    Natural Questions is a question, a tab and the list of its answers.

    Raises:
        CorpusError: If the file has another form.
    """
    if has_lists(lines := read_lines(file.path)):
        for number, cells in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if cells:
                row = {"question": cells[0], "answers": cells[-1]}
                yield Location(file.name, "line", number), row
        return
    rows = csv_rows(file.path)
    names = [name.strip() for name in rows[0][1]] if rows else []
    if has_header(names):
        for number, (_, cells) in enumerate(rows[1:], start=1):
            yield Location(file.name, "row", number), _filled(names, cells)
        return
    group = re.sub(r"_(test|val|dev|train)$", "", file.path.stem)
    for number, (line, cells) in enumerate(rows, start=1):
        location, last = Location(file.name, "row", number), cells[-1].strip()
        if len(cells) >= 4 and last in ascii_uppercase[: len(cells) - 2]:
            choices = cells[1:-1]
            yield (
                location,
                {"question": cells[0], "choices": choices, "correct": last, "group": group},
            )
        else:
            raise CorpusError(
                f"{file.path}, line {line}: not a question, its choices and the letter of the "
                'correct one; or name the columns in the first row, one of them "question"'
            )


def has_header(names: Sequence[str]) -> bool:
    """Return True if the cells of a first row name a question among other columns."""
    return any(field_name(name) in QUESTIONS for name in names)


def with_letters(rows: Sequence[Row], start: int | None) -> list[Row]:
    """Return rows in which a letter names the choice that an index from 0 or 1 does.

    The questions of a file show together from which of both it counts: the four choices of MedMCQA
    and QuALITY have the index 0, or 4. If there is neither, the file counts from `start`, as those
    of the Hugging Face hub do from 0. With None the index stays, and is an error.
    """
    starts = {}
    for key in FROM_0_OR_1:
        given = {index_text(row.get(key)) for _, row in rows}
        starts[key] = 0 if "0" in given else 1 if "4" in given else start
    letters = {
        (key, str(start + index)): letter
        for key, start in starts.items()
        if start is not None
        for index, letter in enumerate("ABCD")
    }
    return [
        (place, {key: letters.get((key, index_text(value)), value) for key, value in row.items()})
        for place, row in rows
    ]


def has_lists(lines: Sequence[str]) -> bool:
    """Return True if lines are a question, a tab and a list of answers, as in Natural Questions."""
    return bool(lines) and _WITH_LIST.match(lines[0]) is not None


def _filled(names: Sequence[str], cells: Sequence[str]) -> dict[str, object]:
    """Return the cells that are not blank, by column; truth values are so again."""
    filled = {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
    return {name: _TRUTH.get(cell.strip(), cell) for name, cell in filled.items()}
