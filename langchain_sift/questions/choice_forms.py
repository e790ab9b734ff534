"""Read choices that have a field each, or of which each says whether it is correct."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_NAMES = ("option", "choice", "ending", "sol", "op", "alternative", "ans", "mc_answer", "answer")
_COLUMNS = (*(rf"{name}_?([a-j]|\d+)" for name in _NAMES), "([A-J])")
_MARKS = ("correct", "is_correct", "isCorrect")
"""Fields of a choice that are True if it is correct."""


def choices_in_columns(
    fields: Mapping[str, object], names_of_correct: Sequence[str]
) -> dict[str, object]:
    """Return choices that have a field each, or several answers; nothing if there are none.

    answer1, answer2... are correct answers if nothing says which of them is correct. A "label"
    counts numbered choices from 0, and answerA, answerB... from 1, as in Social IQa. Other fields
    name the correct choice by the number, the letter or the name of its field, such as "option2".

    Args:
        fields: The fields of a row.
        names_of_correct: Names of the fields that may say which choice is correct; "label" is one.
    """
    for pattern in _COLUMNS:
        matches = [match for key in fields if (match := re.fullmatch(pattern, key))]
        matches.sort(key=lambda match: (len(match[1]), match[1]))  # the tenth after the ninth
        choices = {match[1].upper(): fields[match[0]] for match in matches}
        if len(choices) < 2:
            continue
        is_answer, is_numbered = pattern.startswith("answer"), "".join(choices).isdecimal()
        if is_answer and choices.keys().isdisjoint(("0", "1", "A")):
            continue  # others beside an "answer"
        if is_answer and is_numbered and not any(key in fields for key in names_of_correct):
            return {"answers": [*choices.values()]}
        labels = {_plain(match[0]): match[1].upper() for match in matches}
        if named := _named(fields, names_of_correct, labels):
            return {"choices": choices, **named}
        label = str(fields.get("label", "")).strip().removesuffix(".0")
        if is_numbered and label:
            return {"choices": [*choices.values()]}
        if is_answer and label.isdecimal():
            choices = {str(number): text for number, text in enumerate(choices.values(), start=1)}
        return {"choices": choices}
    return {}


def marked_choices(fields: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    """Return choices of which each says whether it is correct; nothing if there are none.

    Args:
        fields: The fields of a row.
        names: Names of the fields that may hold the choices, or "answers" instead of them.
    """
    for name in names:
        value = fields.get(name)
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            continue
        marks = [next((one[key] for key in _MARKS if key in one), None) for one in value]
        right = [index for index, mark in enumerate(marks) if mark is True]
        if marks and all(isinstance(mark, bool) for mark in marks):
            return {name: None, "choices": value, "correct": right or None}
    return {}


def _named(
    fields: Mapping[str, object], names_of_correct: Sequence[str], labels: Mapping[str, str]
) -> dict[str, object]:
    """Return the fields that name a choice by the name of its field, with its label instead."""
    values = {key: fields[key] for key in names_of_correct if isinstance(fields.get(key), str)}
    return {key: labels[name] for key, one in values.items() if (name := _plain(one)) in labels}


def _plain(name: object) -> str:
    return re.sub(r"[\s_]", "", str(name)).casefold()
