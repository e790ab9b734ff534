"""Read the choices and answers of a question, in the forms of common datasets."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from langchain_sift.checks import instances
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.questions.field_names import ANSWERS, CHOICES, CORRECT, FROM_0_OR_1
from langchain_sift.questions.question_fields import index_text, whole
from langchain_sift.report.words import normalized
from langchain_sift.ttft.texts import well_formed

_LABELS = ("label", "key", "aid")
_TEXTS = ("text", "value", "atext")
_RESULT = re.compile(r"\n#### ([^\n]+)\s*\Z")
"""The last line of a solution in GSM8K; a heading of Markdown has lines after it."""

_TRUTH = {True: ("yes", "true"), False: ("no", "false")}


@dataclass(frozen=True, slots=True)
class Question:
    """The choices and answers of a question."""

    choices: tuple[str, ...] = ()
    correct: int | None = None
    """Index of the correct choice, from 0. None means that it is not known."""

    answers: tuple[str, ...] = ()
    """Correct answers as texts."""

    def __post_init__(self) -> None:
        """Check the fields; lists become tuples.

        Raises:
            ArgumentError: If one has another type, or no choice has the correct index.
        """
        for name in ("choices", "answers"):
            object.__setattr__(self, name, instances(name, getattr(self, name), str))
        is_index = isinstance(self.correct, Integral) and not isinstance(self.correct, bool)
        if self.correct is not None and not (is_index and 0 <= self.correct < len(self.choices)):
            raise ArgumentError(
                f"correct must be the index of one of the {len(self.choices)} choices, from 0, or "
                f"None, got {self.correct!r}"
            )

    @property
    def reference(self) -> str:
        """A correct answer, or the correct choice; empty if neither is known."""
        if self.answers:
            return self.answers[0]
        return "" if self.correct is None else self.choices[self.correct]

    @classmethod
    def of(cls, location: object, fields: Mapping[str, object]) -> Question:
        """Return the choices and answers in the fields of a row.

        Args:
            location: The location of the row, for messages of errors.
            fields: Choices under "choices", "options" or "endings": a list of texts, a list of
                objects with "text" and "label", an object with a list of each, or an object with
                a text under each label. The correct one under "correct" or "answerKey", else
                under "answer", "answers", "target" or "label": its index from 0, its label, by
                default A, B, C..., or its text. A value that fits several is a label, if the row
                itself names labels; if these are numbers, a number is no index. If not, it is an
                index or a letter under "correct" and "answerKey", and a text under the other
                names. Without choices these are the correct answers: a text or a list, SQuAD's
                object with a list under "text", or TriviaQA's with "value" and "aliases"; but a
                "label" that is an index or a letter. True is "yes" or "true", and blank answers
                are missing. Other names as in `question_fields`.

        Raises:
            CorpusError: If a field has another form, an index or letter names no choice, two
                fields name different ones, or a file may count an index from 0 or from 1. A longer
                answer that is none of the choices is no error: it is a correct answer too.
        """
        choices = _choices(location, fields)
        key, values = _answers(location, fields)
        texts = tuple(well_formed(str(text)) for text in choices.texts)
        answers = tuple(dict.fromkeys(text for value in values for text in _as_texts(value)))
        named = [choices.index_of(value) for value in values] if texts else []
        is_place = len(named) == 1 and not _is_text(values[0], texts, named[0])
        for known in CORRECT:
            if known in fields and fields[known] != "":
                right = choices.named_by(location, known, fields[known])
                if len(right) > 1:
                    return cls(texts, None, answers or tuple(texts[index] for index in right))
                is_checked = key in {"answer", "answers"} and [*map(type, values)] == [str]
                _check_same(location, {known: right[:1], key: named if is_checked else []}, texts)
                return cls(texts, right[0], () if is_place and named == right else answers)
        if not texts and _names_a_choice(fields.get("label"), alone=key == "label"):
            raise _no_choice(location, "label", fields["label"], texts)
        if len(named) == 1:
            if named == [None] and _is_index_or_letter(values[0]):
                raise _no_choice(location, key, values[0], texts)
            return cls(texts, named[0], () if is_place else answers)
        if named and None not in named:
            answers = tuple(texts[index] for index in named if index is not None)
        return cls(texts, None, answers)


def result_of(answer: str) -> str:
    """Return the result of a solution in the form of GSM8K; any other answer as it is."""
    result = _RESULT.search(answer)
    return result[1].strip() if result else answer


@dataclass(frozen=True, slots=True)
class _Choices:
    """The choices of a row as they are in it."""

    texts: Sequence[object]
    labels: Sequence[str]
    has_labels: bool
    """True if the row itself names the labels."""

    def index_of(self, value: object, *, is_place: bool = False) -> int | None:
        """Return the index of the choice that an index, a label or a text names; None if none.

        Args:
            value: The index, label or text.
            is_place: True to read the value as a label or an index before a text.
        """
        if isinstance(value, bool):
            return self._of_truth(value)
        value = whole(value)
        if not isinstance(value, str | int | float):
            return None
        text = self._of_text(value)
        name = (str(value) if text is not None else index_text(value)).strip().strip("().").upper()
        labels = [label.upper() for label in self.labels]
        label = labels.index(name) if name in labels else None
        is_numbered = any(label.isdecimal() for label in labels)  # then a number is no index
        index = int(name) if name.isdecimal() and int(name) < len(self.texts) else None
        index = None if is_numbered else index
        if is_place:
            order = (label, index, text)
        else:
            order = (label, text, index) if self.has_labels else (text, label, index)
        found = next((place for place in order if place is not None), None)
        same = [i for i, one in enumerate(self.texts) if _equal(one, value)]
        is_text = not name.isdecimal() or (not is_numbered and int(name) > len(self.texts))
        return same[0] if found is None and len(same) == 1 and is_text else found

    def named_by(self, location: object, key: str, value: object) -> list[int]:
        """Return the indices of the choices that a field names, of which there is at least one.

        Raises:
            CorpusError: If the field names none, or it is not known where its index begins.
        """
        number = index_text(value)
        if key in FROM_0_OR_1 and number.isdecimal() and 0 < int(number) < len(self.texts):
            raise CorpusError(
                f'{location}: "{key}" is {number}: some files count it from 0 and others from 1, '
                'and no question of this file shows which: name it "correct" and count from 0, '
                'or give the letter of the correct choice as "answerKey"'
            )
        values = value if isinstance(value, list) and value else [value]
        found = [self.index_of(one, is_place=True) for one in values]
        places = [place for place in found if place is not None]
        if len(places) < len(found):
            raise _no_choice(location, key, value, self.texts)
        return places

    def _of_text(self, value: str | float) -> int | None:
        """Return the index of a text, or of a number that is given as one."""
        for index, text in enumerate(self.texts):
            if text == value and isinstance(text, str) == isinstance(value, str):
                return index
        return None

    def _of_truth(self, value: bool) -> int | None:  # noqa: FBT001
        """Return the index of the choice that says yes, or no."""
        texts = [normalized(str(text)) for text in self.texts]
        return next((texts.index(name) for name in _TRUTH[value] if name in texts), None)


def _choices(location: object, fields: Mapping[str, object]) -> _Choices:
    key = next((key for key in CHOICES if key in fields), "choices")
    value = fields.get(key, [])
    labels: object = None
    if isinstance(value, Mapping) and {"text", "label"} <= set(value):  # ARC's form
        value, labels = value["text"], value["label"]
    elif isinstance(value, Mapping):
        value, labels = list(value.values()), list(value)
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        labels = [_first(one, _LABELS) for one in value]
        labels = None if not any(label is not None for label in labels) else labels
        value = [_first(one, _TEXTS) for one in value]
    texts = _scalars(location, key, value)
    if labels is None:
        return _Choices(texts, string.ascii_uppercase[: len(texts)], has_labels=False)
    named = [str(label) for label in _scalars(location, f"{key}: label", labels)]
    if len(named) != len(texts):
        raise CorpusError(f'{location}: "{key}" has {len(texts)} texts and {len(named)} labels')
    return _Choices(texts, named, has_labels=True)


def _answers(location: object, fields: Mapping[str, object]) -> tuple[str, Sequence[object]]:
    """Return the key of the answers, and those that are not blank."""
    key = next((key for key in ANSWERS if key in fields), "answers")
    value = fields.get(key, [])
    if isinstance(value, Mapping):
        parts = {name.casefold(): part for name, part in value.items()}
        if "value" in parts:  # TriviaQA's form
            aliases = parts.get("aliases")
            value = [parts["value"], *(aliases if isinstance(aliases, list) else [])]
        else:  # SQuAD's form, and DROP's
            value = parts.get("text", parts.get("spans", value))
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        value = [one.get("text", one) for one in value]
    values = _scalars(location, key, [value] if _is_scalar(value) else value)
    return key, [one for one in values if str(one).strip()]


def _is_text(value: object, texts: Sequence[str], named: int | None) -> bool:
    """Return True if a value is an answer as text, which may be that of the choice it names."""
    return named is None or (not isinstance(value, bool) and _equal(texts[named], value))


def _is_index_or_letter(value: object) -> bool:
    name = index_text(value).strip("().")
    return name.lstrip("-").isdecimal() or (len(name) == 1 and name in string.ascii_letters)


def _names_a_choice(label: object, *, alone: bool) -> bool:
    """Return True if a label is an index or a letter; beside an answer, whether that is correct."""
    return _is_index_or_letter(label) if alone else index_text(label) in {"0", "1"}


def _check_same(
    location: object, named: Mapping[str, Sequence[int | None]], texts: Sequence[str]
) -> None:
    """Check that the fields that name a choice name the same one, or one of the same text."""
    found = {key: texts[one] for key, places in named.items() for one in places if one is not None}
    if len(set(found.values())) > 1:
        said = ", ".join(f'"{name}" names {text!r}' for name, text in found.items())
        raise CorpusError(f"{location}: {said}: leave one of them out, or count from 0")


def _no_choice(location: object, key: str, value: object, texts: Sequence[object]) -> CorpusError:
    if not texts:
        return CorpusError(
            f'{location}: "{key}" names the correct choice, {value!r}, and there are no "choices": '
            f'give them; or leave "{key}" out, and give an "answer" as text'
        )
    from_1 = ": if the file counts from 1, give the letter of the choice (A for 1)"
    return CorpusError(
        f'{location}: "{key}" must be the index of one of its {len(texts)} choices, from 0, its '
        f"label or its text, got {value!r}{from_1 if index_text(value) == str(len(texts)) else ''}"
    )


def _first(fields: Mapping[str, object], names: Sequence[str]) -> object:
    """Return the value of the first of some fields that an object has; None if it has none."""
    return next((fields[name] for name in names if name in fields), None)


def _scalars(location: object, key: str, values: object) -> Sequence[object]:
    others = [v for v in values if not _is_scalar(v)] if isinstance(values, list) else [values]
    if not isinstance(values, list) or others:
        raise CorpusError(
            f'{location}: "{key}" must be a list of strings and numbers, got '
            f"{type(others[0]).__name__}"
        )
    return values


def _equal(one: object, other: object) -> bool:
    return normalized(str(one)) == normalized(str(other))


def _as_texts(value: object) -> tuple[str, ...]:
    """Return the forms of an answer as texts."""
    if isinstance(value, bool):
        return _TRUTH[value]
    return (well_formed(str(whole(value))),)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
