"""Read the choices and answers of a question, in the forms of common datasets."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import Location
from langchain_sift.report.words import normalized
from langchain_sift.ttft.texts import well_formed

_CHOICES = ("choices", "options", "endings")
_CORRECT = ("correct", "answerKey")
_ANSWERS = ("answers", "answer", "target", "label")


@dataclass(frozen=True, slots=True)
class Question:
    """The choices and answers of a question."""

    choices: tuple[str, ...] = ()
    correct: int | None = None
    """Index of the correct choice, from 0. None means that it is not known."""

    answers: tuple[str, ...] = ()
    """Correct answers as texts."""

    @classmethod
    def of(cls, location: Location, fields: Mapping[str, object]) -> Question:
        """Return the choices and answers in the fields of a row.

        Args:
            location: The location of the row, for messages.
            fields: Choices under "choices", "options" or "endings": a list of texts, a list of
                objects with "text" and "label", an object with a list of each, or an object with
                a text under each label. The correct one under "correct" or "answerKey", else
                under "answer", "answers", "target" or "label": its index from 0, its label, by
                default A, B, C..., or its text. Without choices these are the correct answers, a
                text or a list, or SQuAD's object with a list under "text".

        Raises:
            CorpusError: If a field has another form, or the answer is none of the choices.
        """
        texts, labels = _choices(location, fields)
        for key in _CORRECT:
            if key in fields:
                correct = _index_of(fields[key], texts, labels)
                if correct is None:
                    raise _no_choice(location, key, fields[key], texts)
                return cls(_as_texts(texts), correct, _answers(location, fields)[1])
        key, answers = _answers(location, fields)
        if not texts or len(answers) != 1:
            return cls(_as_texts(texts), None, answers)
        value = _only(fields[key])
        correct = _index_of(value, texts, labels)
        if correct is None and _is_index_or_letter(value):
            raise _no_choice(location, key, value, texts)
        named = correct is not None and normalized(str(value)) != normalized(str(texts[correct]))
        return cls(_as_texts(texts), correct, () if named else answers)


def _choices(
    location: Location, fields: Mapping[str, object]
) -> tuple[Sequence[object], Sequence[str]]:
    """Return the choices as they are in the row, and their labels."""
    key = next((key for key in _CHOICES if key in fields), "choices")
    value = fields.get(key, [])
    labels: object = None
    if isinstance(value, Mapping) and {"text", "label"} <= set(value):  # ARC's form
        value, labels = value["text"], value["label"]
    elif isinstance(value, Mapping):
        value, labels = list(value.values()), list(value)
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        labels = [one.get("label") for one in value]
        value = [one.get("text") for one in value]
    texts = _scalars(location, key, value)
    if labels is None:
        return texts, string.ascii_uppercase[: len(texts)]
    named = [str(label) for label in _scalars(location, f"{key}: label", labels)]
    if len(named) != len(texts):
        raise CorpusError(f'{location}: "{key}" has {len(texts)} texts and {len(named)} labels')
    return texts, named


def _answers(location: Location, fields: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    """Return the key of the answers, and the answers as texts."""
    key = next((key for key in _ANSWERS if key in fields), "answers")
    value = fields.get(key, [])
    if isinstance(value, Mapping):  # SQuAD's form
        value = value.get("text")
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        value = [one.get("text") for one in value]
    return key, _as_texts(_scalars(location, key, [value] if _is_scalar(value) else value))


def _index_of(value: object, texts: Sequence[object], labels: Sequence[str]) -> int | None:
    """Return the index of the choice that an index, a label or a text names; None if none."""
    value = _only(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if value in texts and isinstance(value, str) == isinstance(texts[texts.index(value)], str):
        return texts.index(value)
    name = str(value).strip().strip("().").upper()
    upper = [label.upper() for label in labels]
    if name in upper:
        return upper.index(name)
    if name.isdecimal():
        return int(name) if int(name) < len(texts) else None
    same = [i for i, text in enumerate(texts) if normalized(str(text)) == normalized(str(value))]
    return same[0] if len(same) == 1 else None


def _is_index_or_letter(value: object) -> bool:
    name = str(value).strip().strip("().")
    return name.lstrip("-").isdecimal() or (len(name) == 1 and name in string.ascii_letters)


def _no_choice(location: Location, key: str, value: object, texts: Sequence[object]) -> CorpusError:
    return CorpusError(
        f'{location}: "{key}" must be the index of one of its {len(texts)} choices, from 0, its '
        f"label or its text, got {value!r}"
    )


def _only(value: object) -> object:
    """Return the element of a list with one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _scalars(location: Location, key: str, values: object) -> Sequence[object]:
    others = [v for v in values if not _is_scalar(v)] if isinstance(values, list) else [values]
    if not isinstance(values, list) or others:
        raise CorpusError(
            f'{location}: "{key}" must be a list of strings and numbers, got '
            f"{type(others[0]).__name__}"
        )
    return values


def _as_texts(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(well_formed(str(value)) for value in values)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
