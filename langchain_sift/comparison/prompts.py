"""What the methods are compared on, from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.corpus import Place, is_scalar, label_of, read_rows
from langchain_sift.ttft.model.tokens import well_formed


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, or a question, that the methods are compared on."""

    id: str
    text: str
    group: str = "all"
    """What it is filed under in the report, such as its domain."""

    source: str = ""
    """What it was cut from. Prompts of one source are alike: they count as one observation in
    intervals. Empty: a source of its own."""

    answers: tuple[str, ...] = ()
    """What a question's answer may be."""

    choices: tuple[str, ...] = ()
    """What a question of several choices offers."""

    correct: int | None = None
    """Which of the choices is right, from 0."""


def as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Return prompts, with the texts among them numbered from 1.

    Raises:
        CorpusError: If there is none, or two have the same id.
    """
    found = [
        Prompt(id=str(number), text=prompt) if isinstance(prompt, str) else prompt
        for number, prompt in enumerate(prompts, start=1)
    ]
    if not found:
        raise CorpusError("there is no prompt to compare on")
    seen: set[str] = set()
    for prompt in found:
        if prompt.id in seen:
            raise CorpusError(f"two prompts have the id {prompt.id!r}: give each its own")
        seen.add(prompt.id)
    return found


def read_prompts(path: Path, *, lines: bool = False) -> list[Prompt]:
    """Return the prompts of a file or folder, in the formats of `read_corpus`.

    Args:
        path: Where an object has a "text", or a "question" with "answers" (a list, an "answer",
            or SQuAD's object with a list under "text"), and perhaps "choices" with the place of
            the "correct" one, from 0; a "group" or "domain", under which it is filed; and a
            "source". What is null is as if it were not there.
        lines: Whether each line of a text file is a prompt, as in a list of questions;
            otherwise the file is one.

    Raises:
        CorpusError: As `read_corpus`, if something is of another type, and if there is no prompt.
    """
    prompts: list[Prompt] = []
    for place, row in read_rows(path, text_keys=("text", "question")):
        if lines and place.line is None:
            questions = [line.strip() for line in row["text"].splitlines() if line.strip()]
            prompts += [Prompt(f"{place.name}:{n}", q) for n, q in enumerate(questions, start=1)]
        else:
            known = {key: value for key, value in row.items() if value is not None}
            prompts.append(_prompt(place, known))
    if not prompts:
        raise CorpusError(f"{path}: no prompt in it")
    return as_prompts(prompts)


def _prompt(place: Place, row: dict[str, Any]) -> Prompt:
    text = row.get("text", row.get("question"))
    if not isinstance(text, str):
        raise CorpusError(f'{place.told}: "text" must be a string, got {type(text).__name__}')
    answers = row.get("answers", row.get("answer", []))
    if isinstance(answers, dict):  # as SQuAD has them
        answers = answers.get("text")
    answers = [answers] if is_scalar(answers) else answers
    choices = _texts(place, "choices", row.get("choices", []))
    correct = row.get("correct")
    if correct is not None and (type(correct) is not int or not 0 <= correct < len(choices)):
        raise CorpusError(
            f'{place.told}: "correct" must be the place of one of its {len(choices)} choices, '
            f"from 0, got {correct!r}"
        )
    return Prompt(
        id=label_of(row, "id") or str(place),
        text=well_formed(text),
        group=label_of(row, "group") or label_of(row, "domain") or "all",
        source=label_of(row, "source"),
        answers=_texts(place, "answers", answers),
        choices=choices,
        correct=correct,
    )


def _texts(place: Place, key: str, values: Any) -> tuple[str, ...]:
    """Return strings and numbers as texts."""
    others = [one for one in values if not is_scalar(one)] if isinstance(values, list) else [values]
    if others:
        kind = type(others[0]).__name__
        raise CorpusError(
            f'{place.told}: "{key}" must be a list of strings and numbers, got {kind}'
        )
    return tuple(well_formed(str(value)) for value in values)
