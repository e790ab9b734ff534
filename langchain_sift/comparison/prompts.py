"""What the methods are compared on, from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.corpus import read_rows


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
        msg = "there is no prompt to compare on"
        raise CorpusError(msg)
    seen: set[str] = set()
    for prompt in found:
        if prompt.id in seen:
            msg = f"two prompts have the id {prompt.id!r}: give each its own"
            raise CorpusError(msg)
        seen.add(prompt.id)
    return found


def read_prompts(path: Path, *, lines: bool = False) -> list[Prompt]:
    """Return the prompts of a file or folder, in the formats of `read_corpus`.

    Args:
        path: Where an object has a "text", or a "question" with "answers" (or an "answer"), and
            perhaps "choices" with the place of the "correct" one, from 0; a "group" or "domain",
            under which it is filed; and a "source".
        lines: Whether each line of a text file is a prompt, as in a list of questions;
            otherwise the file is one.

    Raises:
        CorpusError: As `read_corpus`, and if there is no prompt.
    """
    prompts = []
    for place, row in read_rows(path, text_keys=("text", "question")):
        text = row.get("text", row.get("question"))
        if lines and place.line is None:
            questions = [line.strip() for line in str(text).splitlines() if line.strip()]
            prompts += [Prompt(f"{place.name}:{n}", q) for n, q in enumerate(questions, start=1)]
        else:
            prompts.append(_prompt(str(row.get("id") or place), str(text), row))
    if not prompts:
        msg = f"{path}: no prompt in it"
        raise CorpusError(msg)
    return as_prompts(prompts)


def _prompt(identifier: str, text: str, row: dict[str, Any]) -> Prompt:
    answers = row.get("answers", row.get("answer", ()))
    answers = (answers,) if isinstance(answers, str | int | float) else answers
    choices = tuple(map(str, row.get("choices") or ()))
    correct = row.get("correct")
    if correct is not None and not (isinstance(correct, int) and 0 <= correct < len(choices)):
        msg = (
            f'prompt {identifier}: "correct" must be the place of one of its {len(choices)} '
            f"choices, from 0, got {correct!r}"
        )
        raise CorpusError(msg)
    return Prompt(
        id=identifier,
        text=text,
        group=str(row.get("group") or row.get("domain") or "all"),
        source=str(row.get("source") or ""),
        answers=tuple(map(str, answers)),
        choices=choices,
        correct=correct,
    )
