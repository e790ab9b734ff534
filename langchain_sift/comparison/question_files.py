"""Read the questions of a JSON, CSV or Parquet file, as common datasets are distributed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from string import ascii_uppercase
from typing import Any

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import Location, csv_rows, read_lines, read_objects
from langchain_sift.language_models.question_fields import QUESTIONS, field_name

_LISTS = ("data", "rows", "examples", "questions")
"""Names of the list of questions in a file that is an object; the second of the rows that Hugging
Face serves, the third of BIG-bench."""

_WITH_LIST = re.compile(r"[^\t]+\t[\"\s]*\[.*\][\"\s]*\Z")
_TRUTH = {"True": True, "False": False}

Row = tuple[Location, Mapping[str, object]]


def rows_of_json(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file: a list of objects, or the form of SQuAD 1.1 and 2.0.

    The list may be in an object, under one of `_LISTS`, or be the lines of the file. In SQuAD's
    form the source of a question is the title of its article.

    Raises:
        CorpusError: If the file has another form.
    """
    text = "\n".join(read_lines(file.path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not _is_object(text.strip().partition("\n")[0]):
            raise CorpusError(f"{file.path}: not JSON: {error}") from error
        yield from rows_of_lines(file)
        return
    if isinstance(content, dict):
        lists = {key.casefold(): value for key, value in content.items()}
        content = next((lists[key] for key in _LISTS if isinstance(lists.get(key), list)), None)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CorpusError(
            f"{file.path}: not a list of objects, nor an object with one under "
            f"{', '.join(map(repr, _LISTS))}"
        )
    rows = [row for entry in content for row in _of_article(file, entry)]
    for number, row in enumerate(rows, start=1):
        yield Location(file.name, "question", number), row


def rows_of_lines(file: SourceFile) -> Iterator[Row]:
    """Yield the questions on the lines of a file; those of MRQA have a passage on each.

    Raises:
        CorpusError: If the file cannot be read, or a line is no object.
    """
    for number, entry in read_objects(file.path, text_keys=()):
        if "qas" not in entry:
            if [*entry] != ["header"]:  # the first line of MRQA
                yield Location(file.name, "line", number), entry
            continue
        for place, row in enumerate(_of_article(file, {"paragraphs": [entry]}), start=1):
            location = Location(file.name, "line", number)
            yield location, {"id": row.get("qid", f"{location.id}:{place}"), **row}


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
    for number, row in enumerate(rows, start=1):
        yield Location(file.name, "row", number), row


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _of_article(file: SourceFile, entry: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """Return the questions of an article of SQuAD, the row of an export, or the object itself."""
    if "paragraphs" not in entry:
        return [entry["row"] if isinstance(entry.get("row"), dict) else entry]
    try:
        title = {"source": entry["title"]} if "title" in entry else {}
        questions = [question for part in entry["paragraphs"] for question in part["qas"]]
        return [{**title, **question} for question in questions]
    except (TypeError, KeyError) as error:
        raise CorpusError(f'{file.path}: not the form of SQuAD: no "qas" in a paragraph') from error


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
            yield Location(file.name, "row", number), _with_choices(dict(zip(names, cells)))  # noqa: B905
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


def has_lists(lines: Sequence[str]) -> bool:
    """Return True if lines are a question, a tab and a list of answers, as in Natural Questions."""
    return bool(lines) and _WITH_LIST.match(lines[0]) is not None


def _with_choices(row: dict[str, str]) -> dict[str, object]:
    """Return the row with the cells of the columns A, B, C... as its choices.

    Truth values are so again; blank cells are missing.
    """
    filled = {key: cell for key, cell in row.items() if cell.strip()}
    columns = takewhile(row.__contains__, ascii_uppercase)
    choices = {letter: filled.pop(letter) for letter in columns if letter in filled}
    others = {key: _TRUTH.get(cell.strip(), cell) for key, cell in filled.items()}
    return {**others, "choices": choices} if len(choices) > 1 else {**others}
