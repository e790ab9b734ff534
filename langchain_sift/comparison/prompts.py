"""Read the prompts that methods are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.files import SourceFile, files_of, label_of
from langchain_sift.indexing.formats import JSON_LINES, Location, read_lines, read_objects
from langchain_sift.ttft.model.tokens import well_formed

_TEXTS = (".txt", ".md")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, or a question, that the methods are compared on."""

    id: str
    text: str
    group: str = "all"
    """Group in the report, such as the domain."""

    source: str = ""
    """Source of the text. Prompts of one source are alike, and count as one observation in
    intervals. Empty means that the prompt is a source by itself."""

    answers: tuple[str, ...] = ()
    """Correct answers of a question."""

    choices: tuple[str, ...] = ()
    """Choices of a multiple-choice question."""

    correct: int | None = None
    """Index of the correct choice, from 0. None means that it is not known."""


def as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Return prompts; a text gets its number among them as id, from 1.

    Raises:
        CorpusError: If there are none, or two have the same id.
    """
    checked = [
        Prompt(id=str(number), text=prompt) if isinstance(prompt, str) else prompt
        for number, prompt in enumerate(prompts, start=1)
    ]
    if not checked:
        raise CorpusError("there is no prompt to compare on")
    seen: set[str] = set()
    for prompt in checked:
        if prompt.id in seen:
            raise CorpusError(f"two prompts have the id {prompt.id!r}: ids must differ")
        seen.add(prompt.id)
    return checked


def read_prompts(path: Path | str, *, lines: bool = False) -> list[Prompt]:
    """Read the prompts of a file, or of all files in a folder in the order of their names.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file, with a prompt on each line; a `.txt` or `.md` file;
            or a folder of such files. An object has a "text", or a "question" with "answers" (a
            list, an "answer", or SQuAD's object with a list under "text"). It may have "choices"
            with the index of the "correct" one, from 0; a "group" or "domain"; and a "source".
            Fields that are null count as missing.
        lines: If True, each line of a text file is a prompt, as in a list of questions;
            otherwise the file is one prompt.

    Raises:
        CorpusError: If a file cannot be read, a field has another type, there are no prompts, or
            two have the same id; the message names file and line.
    """
    prompts: list[Prompt] = []
    for file in files_of(path, endings=JSON_LINES + _TEXTS):
        if file.path.name.lower().endswith(JSON_LINES):
            prompts += [
                _prompt(Location(file.name, "line", number), row)
                for number, row in read_objects(file.path, text_keys=("text", "question"))
            ]
        elif lines:
            prompts += _line_prompts(file)
        else:
            prompts.append(Prompt(file.name, well_formed("\n".join(read_lines(file.path)))))
    if not prompts:
        raise CorpusError(f"{path}: no prompt in it")
    return as_prompts(prompts)


def _line_prompts(file: SourceFile) -> list[Prompt]:
    texts = [line.strip() for line in read_lines(file.path) if line.strip()]
    return [
        Prompt(Location(file.name, "line", number).id, text)
        for number, text in enumerate(texts, start=1)
    ]


def _prompt(location: Location, row: Mapping[str, object]) -> Prompt:
    fields = {key: value for key, value in row.items() if value is not None}
    text = fields.get("text", fields.get("question"))
    if not isinstance(text, str):
        raise CorpusError(f'{location}: "text" must be a string, got {type(text).__name__}')
    answers = fields.get("answers", fields.get("answer", []))
    if isinstance(answers, Mapping):  # SQuAD's form
        answers = answers.get("text")
    choices = _texts(location, "choices", fields.get("choices", []))
    return Prompt(
        id=label_of(fields, "id") or location.id,
        text=well_formed(text),
        group=label_of(fields, "group") or label_of(fields, "domain") or "all",
        source=label_of(fields, "source"),
        answers=_texts(location, "answers", [answers] if _is_scalar(answers) else answers),
        choices=choices,
        correct=_index(location, fields.get("correct"), len(choices)),
    )


def _index(location: Location, correct: object, choices: int) -> int | None:
    if correct is None or (
        isinstance(correct, int) and not isinstance(correct, bool) and 0 <= correct < choices
    ):
        return correct
    raise CorpusError(
        f'{location}: "correct" must be the index of one of its {choices} choices, from 0, '
        f"got {correct!r}"
    )


def _texts(location: Location, key: str, values: object) -> tuple[str, ...]:
    """Return strings and numbers as texts."""
    others = [v for v in values if not _is_scalar(v)] if isinstance(values, list) else [values]
    if not isinstance(values, list) or others:
        raise CorpusError(
            f'{location}: "{key}" must be a list of strings and numbers, got '
            f"{type(others[0]).__name__}"
        )
    return tuple(well_formed(str(value)) for value in values)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
