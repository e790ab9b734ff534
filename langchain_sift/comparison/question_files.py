"""Read the questions of a JSON, CSV or Parquet file, as common datasets are distributed."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from string import ascii_uppercase
from typing import Any

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import (
    CSV,
    JSON,
    JSON_LINES,
    Location,
    csv_rows,
    read_lines,
    read_objects,
)
from langchain_sift.questions.field_names import (
    ANSWERS,
    CHOICES,
    CORRECT,
    PASSAGES,
    QUESTIONS,
    REFERENCES,
    field_name,
    with_ground_truth,
)
from langchain_sift.questions.question_fields import answers_in_text, question_fields
from langchain_sift.questions.question_lists import list_name, questions_in
from langchain_sift.questions.question_sets import (
    blank_questions,
    with_indices,
    with_letters,
    without_system_answers,
)

PARQUET = ".parquet"
QUESTION_FILES = (*JSON, *CSV, PARQUET)

_LISTS = ("data", "rows", "examples", "questions")
"""Names of the list of questions in a file that is an object; the second of the rows that Hugging
Face serves, the third of BIG-bench."""

_WITH_LIST = re.compile(r"[^\t]+\t[\"\s]*\[.*\][\"\s]*\Z")
_ENDING = re.compile(r"(_(test|val|dev|train))?\.csv(\.gz)?$", re.IGNORECASE)
"""What follows the subject in the name of a file of MMLU."""

_TRUTH = {"true": True, "false": False}

Row = tuple[Location, Mapping[str, object]]


class _OtherContentError(CorpusError):
    """A file can be read, and holds no questions."""


def rows_of(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file that ends with one of `JSON_LINES` or `QUESTION_FILES`.

    Raises:
        CorpusError: If the file cannot be read, or has another form.
        MissingExtraError: If a Parquet file cannot be read without pyarrow.
    """
    name = file.path.name.lower()
    if name.endswith(JSON_LINES):
        return rows_of_lines(file)
    if name.endswith(PARQUET):
        return rows_of_parquet(file)
    return rows_of_csv(file) if name.endswith(CSV) else rows_of_json(file)


def names_question(file: SourceFile) -> bool:
    """Return True if the first row of a file for `rows_of` has a field for a question.

    Raises:
        CorpusError: If the file cannot be read.
        MissingExtraError: As in `rows_of`.
    """
    if file.path.name.lower().endswith(PARQUET):
        names = _of_parquet(file, lambda content: content.schema_arrow.names)
        return has_header(names) or list_name({name: [] for name in names}) is not None
    try:
        return any(has_header([*row]) for _, row in islice(rows_of(file), 1))
    except _OtherContentError:
        return False


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
    rows = _of_parquet(file, lambda content: content.read().to_pylist())
    for number, entry in enumerate(rows, start=1):
        location = Location(file.name, "row", number)
        for row in questions_in(location, entry, location.id):
            yield location, row


def _of_parquet(file: SourceFile, take: Callable[[Any], Sequence[Any]]) -> Sequence[Any]:
    """Return what a function takes from a `ParquetFile`."""
    require("files", "pyarrow")
    from pyarrow import ArrowException  # type: ignore[import-untyped] # noqa: PLC0415 - an extra
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        with ParquetFile(file.path) as content:
            return take(content)
    except (OSError, ArrowException) as error:
        raise CorpusError(f"{file.path}: not a Parquet file that can be read: {error}") from error


def questions_of(
    rows: Iterable[Row], *, start: int | None = None, is_table: bool = False
) -> list[Row]:
    """Return the fields of a file's questions under common names, as in `question_fields`.

    Args:
        rows: The rows of a file.
        start: As in `with_letters`.
        is_table: True if all values were texts, as in CSV.

    Raises:
        CorpusError: If a question is blank, or an answer may be an index or a text.
    """
    located = [*rows]
    places = [place for place, _ in located]
    given = without_system_answers(with_letters([row for _, row in located], start))
    for place, blank in zip(places, blank_questions(given), strict=True):
        if blank is not None:
            raise CorpusError(f'{place}: "{blank}" is empty: give it a text, or leave the row out')
    fields = [question_fields(row) for row in given]
    return [*zip(places, with_indices(fields, places) if is_table else fields, strict=True)]


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
        if listed is None and has_header([*content]):  # the only line of a file
            return [("", content)]
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise _OtherContentError(
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
    names = with_ground_truth([name.strip() for name in rows[0][1]]) if rows else []
    if has_header(names):
        _check_names(file, names)
        for number, (_, cells) in enumerate(rows[1:], start=1):
            yield Location(file.name, "row", number), _filled(names, cells)
        return
    group = _ENDING.sub("", file.path.name)
    for number, (line, cells) in enumerate(rows, start=1):
        location, last = Location(file.name, "row", number), cells[-1].strip()
        if len(cells) >= 4 and last in ascii_uppercase[: len(cells) - 2]:
            choices = cells[1:-1]
            yield (
                location,
                {"question": cells[0], "choices": choices, "correct": last, "group": group},
            )
        else:
            raise _OtherContentError(
                f"{file.path}, line {line}: not a question, its choices and the letter of the "
                'correct one; or name the columns in the first row, one of them "question"'
            )


def has_header(names: Sequence[str]) -> bool:
    """Return True if the cells of a first row name a question among other columns."""
    return any(field_name(name) in QUESTIONS for name in names)


def has_lists(lines: Sequence[str]) -> bool:
    """Return True if lines are a question, a tab and a list of answers, as in Natural Questions."""
    return bool(lines) and _WITH_LIST.match(lines[0]) is not None


def _check_names(file: SourceFile, names: Sequence[str]) -> None:
    """Check that no two columns hold the question, or the answer."""
    known = (*QUESTIONS, *ANSWERS, *CORRECT, *CHOICES)
    counts = Counter(name for name in map(field_name, names) if name in known)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise CorpusError(
            f"{file.path}: two columns are named {repeated[0]!r}: rename one of them, or remove it"
        )


def _filled(names: Sequence[str], cells: Sequence[str]) -> dict[str, object]:
    """Return the cells that are not blank, by column, as the values that they stand for.

    A blank question or reference is kept: no other column may replace it.
    """
    return {
        name: _value(field_name(name), cell)
        for name, cell in zip(names, cells, strict=False)
        if cell.strip() or field_name(name) in (*QUESTIONS, *REFERENCES)
    }


def _value(name: str, cell: str) -> object:
    """Return the answers in a cell, such as a truth value; the text of any other cell."""
    if name not in (*ANSWERS, *CORRECT):
        return cell
    truth = _TRUTH.get(cell.strip().casefold())
    return answers_in_text(cell) if truth is None else truth
