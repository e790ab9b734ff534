"""Read the questions of a JSON or CSV file, as common datasets are distributed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import Location, csv_rows, read_lines

_NAMES_OF_QUESTIONS = ("question", "text")
_LETTERS = "ABCDEFGHIJ"

Row = tuple[Location, Mapping[str, object]]


def rows_of_json(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file: a list of objects, or the form of SQuAD 1.1 and 2.0.

    In SQuAD's form the source of a question is the title of its article.

    Raises:
        CorpusError: If the file has another form.
    """
    try:
        content = json.loads("\n".join(read_lines(file.path)))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{file.path}: not JSON: {error}") from error
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CorpusError(
            f'{file.path}: not a list of objects, nor an object with one under "data"'
        )
    rows = [row for entry in content for row in _of_article(file, entry)]
    for number, row in enumerate(rows, start=1):
        yield Location(file.name, "question", number), row


def _of_article(file: SourceFile, entry: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """Return the questions of an article of SQuAD, or the object itself."""
    if "paragraphs" not in entry:
        return [entry]
    try:
        questions = [question for part in entry["paragraphs"] for question in part["qas"]]
        return [{"source": entry.get("title", ""), **question} for question in questions]
    except (TypeError, KeyError) as error:
        raise CorpusError(f'{file.path}: not the form of SQuAD: no "qas" in a paragraph') from error


def rows_of_csv(file: SourceFile) -> Iterator[Row]:
    """Yield the questions of a file with a header, or in the form of MMLU, which has none.

    A header names a "question" or a "text", and the choices A, B, C... have a column each, unless
    there is a column of another name for them. A row of MMLU is a question, its choices, and the
    letter of the correct one; the group is the name of the file.

    Raises:
        CorpusError: If the file has another form.
    """
    rows = csv_rows(file.path)
    names = [name.strip() for name in rows[0][1]] if rows else []
    lower = [name.lower() for name in names]
    if any(name in lower for name in _NAMES_OF_QUESTIONS):
        keys = [key if key in _NAMES_OF_QUESTIONS else name for key, name in zip(lower, names)]  # noqa: B905
        for number, (_, cells) in enumerate(rows[1:], start=1):
            yield Location(file.name, "row", number), _with_choices(dict(zip(keys, cells)))  # noqa: B905
        return
    group = re.sub(r"_(test|val|dev|train)$", "", file.path.stem)
    for number, (line, cells) in enumerate(rows, start=1):
        if len(cells) < 4 or cells[-1].strip() not in _LETTERS[: len(cells) - 2]:
            raise CorpusError(
                f"{file.path}, line {line}: not a question, its choices and the letter of the "
                'correct one; or name the columns in the first row, one of them "question"'
            )
        yield (
            Location(file.name, "row", number),
            {
                "question": cells[0],
                "choices": cells[1:-1],
                "correct": cells[-1].strip(),
                "group": group,
            },
        )


def _with_choices(row: dict[str, str]) -> dict[str, object]:
    """Return the row with the cells of the columns A, B, C... as its choices."""
    letters = [letter for letter in _LETTERS if row.get(letter, "").strip()]
    others = {key: cell for key, cell in row.items() if cell.strip() and key not in letters}
    return {**others, "choices": [row[letter] for letter in letters]} if letters else {**others}
