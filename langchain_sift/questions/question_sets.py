"""Decide what one question leaves open by all questions of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_sift.errors import CorpusError
from langchain_sift.questions.field_names import (
    ANSWERS,
    CHOICES,
    FROM_0_OR_1,
    OF_SYSTEMS,
    QUESTIONS,
    REFERENCES,
    field_name,
    with_named_reference,
)
from langchain_sift.questions.question_fields import index_text, is_blank

Fields = Mapping[str, object]


def with_letters(rows: Sequence[Fields], start: int | None) -> list[Fields]:
    """Return rows in which a letter names the choice that an index from 0 or 1 does.

    The questions of a file show together from which of both it counts: the four choices of MedMCQA
    and QuALITY have the index 0, or 4. If there is neither, the file counts from `start`, as those
    of the Hugging Face hub do from 0. With None the index stays, and is an error.
    """
    starts = {}
    for key in FROM_0_OR_1:
        given = {index_text(row.get(key)) for row in rows}
        starts[key] = 0 if "0" in given else 1 if "4" in given else start
    letters = {
        (key, str(start + index)): letter
        for key, start in starts.items()
        if start is not None
        for index, letter in enumerate("ABCD")
    }
    return [
        {key: letters.get((key, index_text(value)), value) for key, value in row.items()}
        for row in rows
    ]


def without_system_answers(rows: Sequence[Fields]) -> list[Fields]:
    """Return rows in which no answer of a system is left that could pass for a correct one.

    An answer under `OF_SYSTEMS` is a system's if a row of the file has one beside a reference
    (`REFERENCES`), or if all references of the file are blank. If each row has either a reference
    or an answer, they are of different datasets, and both are correct.
    """
    named = [with_named_reference(row) for row in rows]
    filled = [_filled(row) for row in named]
    has_reference = [not names.isdisjoint(REFERENCES) for names in filled]
    has_answer = [not names.isdisjoint(OF_SYSTEMS) for names in filled]
    is_beside = any(map(all, zip(has_reference, has_answer, strict=True)))
    is_named = any(field_name(key) in REFERENCES for row in named for key in row)
    left_out = OF_SYSTEMS if is_beside or (is_named and not any(has_reference)) else REFERENCES
    return [
        row if of else _without(row, left_out) for row, of in zip(named, has_reference, strict=True)
    ]


def blank_questions(rows: Sequence[Fields]) -> list[str | None]:
    """Return, for each row, the name of a blank question that is an error; None if there is none.

    A blank field is an error if no other field is a question, if it is "question", or if another
    row has a question in it and in the field that would replace it. A null is one in the last case.
    """
    filled = [_filled(row) & {*QUESTIONS} for row in rows]
    known = set().union(*filled)
    beside = {(name, other) for names in filled for name in names for other in names}

    def blank_in(row: Fields, names: set[str]) -> str | None:
        """Return the name in a row that has questions under other names."""
        given = {field_name(key): value for key, value in row.items()}
        asked = next((name for name in QUESTIONS if name in names), None)
        for name in QUESTIONS[: QUESTIONS.index(asked)] if asked else QUESTIONS:
            is_text = isinstance(given.get(name), str)
            is_error = is_text and (asked is None or (name == "question" and name not in known))
            if name in given and (is_error or (name, asked) in beside):
                return name
        return None

    return [blank_in(row, names) for row, names in zip(rows, filled, strict=True)]


def with_indices(rows: Sequence[Fields], places: Sequence[object]) -> list[Fields]:
    """Return the fields of a table's rows in which a text that is an index is a number.

    All cells of a table are texts: the answer "1" may be an index from 0, or the text of a choice.
    The rows in which it can only be one of both decide for those in which it can be either.

    Args:
        rows: The fields of each row.
        places: The location of each row, for messages of errors.

    Raises:
        CorpusError: If some rows have indices and others texts, and one can be either.
    """
    found = [(_choices(row), _answer(row)) for row in rows]
    kinds = [_kind(answer, texts) for texts, answer in found]
    index, text, either = (True, False), (False, True), (True, True)
    if index not in kinds:
        return [
            {**row, _key(row): answer} if answer in texts else row
            for row, (texts, answer) in zip(rows, found, strict=True)
        ]
    if text in kinds and either in kinds:
        number = kinds.index(either)
        raise CorpusError(
            f"{places[number]}: the answer {found[number][1]!r} is the index of a choice and the "
            "text of another, and other rows of the file have either: name the column "
            '"correct" if it counts the choices from 0, or give letters'
        )
    return [
        {**row, _key(row): int(answer)} if is_index else row
        for row, (_, answer), (is_index, _) in zip(rows, found, kinds, strict=True)
    ]


def _filled(row: Fields) -> set[str]:
    """Return the names of the fields that are not blank."""
    return {field_name(key) for key, value in row.items() if not is_blank(value)}


def _without(row: Fields, names: Sequence[str]) -> Fields:
    return {key: value for key, value in row.items() if field_name(key) not in names}


def _key(row: Fields) -> str:
    return next((key for key in ANSWERS if key in row), "")


def _choices(row: Fields) -> list[str]:
    """Return choices that are texts, in a list or under letters; none of another form."""
    choices = next((row[key] for key in CHOICES if key in row), None)
    if isinstance(choices, Mapping) and all(len(key) == 1 and key.isalpha() for key in choices):
        choices = [*choices.values()]
    listed = choices if isinstance(choices, list) else []
    texts = [choice.strip() for choice in listed if isinstance(choice, str)]
    return texts if len(texts) == len(listed) else []


def _answer(row: Fields) -> str:
    """Return the answer of a cell, without decimals that pandas writes to a column with gaps."""
    answer = row.get(_key(row))
    return index_text(answer) if isinstance(answer, str) else ""


def _kind(answer: str, texts: Sequence[str]) -> tuple[bool, bool]:
    """Return whether an answer is an index, and whether it is the text of another choice."""
    is_index = answer.isdecimal() and len(answer) < 4 and int(answer) < len(texts)
    is_text = answer in texts and not (is_index and texts[int(answer)] == answer)
    return is_index, is_text
