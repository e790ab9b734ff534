"""Read the prompts that methods are compared on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from langchain_sift.checks import instances
from langchain_sift.comparison.judgments import Relevant, parse_relevant
from langchain_sift.comparison.prompt_files import PromptFiles
from langchain_sift.comparison.qrels import read_qrels
from langchain_sift.comparison.question_files import (
    PARQUET,
    QUESTION_FILES,
    Row,
    has_header,
    has_lists,
    is_object,
    questions_of,
    rows_of,
    rows_of_csv,
)
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.beir import BeirFolder
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import CSV, JSON_LINES, TSV, Location, read_lines
from langchain_sift.indexing.metadata import label_of
from langchain_sift.indexing.paths import named_path
from langchain_sift.questions.field_names import QUESTIONS
from langchain_sift.questions.question import Question, result_of
from langchain_sift.questions.question_fields import is_blank
from langchain_sift.report.ranking import Judgments
from langchain_sift.ttft.texts import well_formed

logger = logging.getLogger(__name__)

_GROUPS = ("group", "domain", "subject", "category")


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

    relevant: Relevant = ()
    """Ids of the documents that are relevant to it: a list; an object with the grade of each, an
    integer; or a list of lists, with the documents of each intent of the prompt."""

    def __post_init__(self) -> None:
        """Check the fields; lists of answers and choices become tuples.

        Raises:
            ArgumentError: If one has another type or form, or no choice has the correct index.
        """
        for name in ("id", "text", "group", "source"):
            if not isinstance(value := getattr(self, name), str):
                raise ArgumentError(f"{name} must be a string, got {type(value).__name__}")
        question = Question(self.choices, self.correct, self.answers)
        object.__setattr__(self, "choices", question.choices)
        object.__setattr__(self, "answers", question.answers)
        parse_relevant(self.relevant)

    @property
    def reference(self) -> str:
        """A correct answer, or the correct choice; empty if neither is known."""
        return Question(self.choices, self.correct, self.answers).reference

    @property
    def judgments(self) -> Judgments:
        """The relevant documents with their grades and intents."""
        return parse_relevant(self.relevant)


def as_prompts(prompts: Iterable[Prompt | str]) -> list[Prompt]:
    """Return prompts; a text gets its number among them as id, from 1.

    A prompt without a source that repeats an earlier one gets the source of that one, or its id:
    the same question tells nothing new, and both count as one observation.

    Raises:
        ArgumentError: If they are no prompts and texts.
        CorpusError: If there are none, one has no text, or two have the same id.
    """
    given: tuple[Prompt | str, ...] = instances("prompts", prompts, Prompt, str)
    checked = [
        Prompt(id=str(number), text=prompt) if isinstance(prompt, str) else prompt
        for number, prompt in enumerate(given, start=1)
    ]
    if not checked:
        raise CorpusError("there is no prompt to compare on")
    if blank := [prompt.id for prompt in checked if not prompt.text.strip()]:
        raise CorpusError(f"the prompt {blank[0]!r} has no text: give it one, or leave it out")
    _check_ids(checked)
    return _with_shared_sources(checked)


def _check_ids(prompts: Sequence[Prompt], places: Sequence[Location] = ()) -> None:
    seen: set[str] = set()
    for number, prompt in enumerate(prompts):
        if prompt.id in seen:
            place = f"{places[number]}: " if places else ""
            raise CorpusError(f"{place}two prompts have the id {prompt.id!r}: ids must differ")
        seen.add(prompt.id)


def _with_shared_sources(prompts: Sequence[Prompt]) -> list[Prompt]:
    first: dict[tuple[str, tuple[str, ...]], Prompt] = {}
    shared = []
    for prompt in prompts:
        earlier = first.setdefault((prompt.text.strip(), tuple(prompt.choices)), prompt)
        is_repeat = earlier is not prompt and not prompt.source
        source = earlier.source or earlier.id if is_repeat else prompt.source
        shared.append(replace(prompt, source=source))
    return shared


def read_prompts(
    path: Path | str,
    *,
    lines: bool = False,
    qrels: Path | str | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[Prompt]:
    """Read the prompts of a file, or of all files in a folder in the order of their names.

    Args:
        path: One of these files, or a folder of such files. An id that occurs in several files
            gets the name of its file before it. Texts beside the questions of a dataset are left
            out, as `PromptFiles.find` says, with a note.

            - `.jsonl`, `.ndjson`: an object on each line. It has a "question" or a "text" (or one
              of `QUESTIONS`); answers and choices in one of the forms of `Question.of`; a "group",
              "domain", "subject" or "category"; a "source"; and its "relevant" documents, as in
              `Prompt`. Fields that are null count as missing. The question follows its premise or
              its passage, as in `question_fields`. An object may hold several questions, as in
              `questions_in`.
            - `.json`: SQuAD, or a list, lines or an object of such objects.
            - `.csv`: MMLU, or a table with the names of the fields in the first row.
            - `.tsv`: an id, a tab and a question on each line, or a table as in `.csv`.
            - `.parquet`: a dataset of the Hugging Face hub (the extra `files`).
            - `.txt`, `.md`: a text; see `lines`.
            - A folder in the format of BEIR.
            - `.jsonl.gz` and so on: a packed file of objects, or a table.
        lines: If True, each line of a text file is a prompt, as in a list of questions;
            otherwise the file is one prompt. Blank lines and files are no prompts.
        qrels: A file with the relevant documents, of TREC or of BEIR, for `read_qrels`. Only
            prompts whose ids are in it are returned. Default for a folder of BEIR: its split
            "test".
        on_note: Called with a note on the files of the folder that are left out. None means a
            warning in the log.

    Raises:
        ArgumentError: If the path is empty.
        CorpusError: If a file cannot be read, a field has another type, there are no prompts, or
            two have the same id; the message names file and line.
        MissingExtraError: If a Parquet file cannot be read without pyarrow.
    """
    folder = BeirFolder.find(named_path(str(path)))
    if folder is not None:
        path, qrels = folder.queries, folder.split() if qrels is None else qrels
    found = PromptFiles.find(path)
    for note in found.notes:
        if on_note is None:
            logger.warning("%s: %s", path, note)
        else:
            on_note(note)
    prompts = as_prompts(_read(path, found.files, lines=lines))
    return prompts if qrels is None else _with_qrels(prompts, Path(path), Path(qrels))


def _read(path: Path | str, files: Sequence[SourceFile], *, lines: bool) -> list[Prompt]:
    by_file = {file.name: _prompts_of(file, lines=lines) for file in files}
    if not any(by_file.values()):
        raise CorpusError(f"{path}: no prompt in it")
    # Files of one dataset often number their questions from 0 each.
    files_with = Counter(id for prompts in by_file.values() for id in {p.id for p in prompts})
    return [
        replace(prompt, id=f"{name}: {prompt.id}") if files_with[prompt.id] > 1 else prompt
        for name, prompts in by_file.items()
        for prompt in prompts
    ]


def _prompts_of(file: SourceFile, *, lines: bool) -> list[Prompt]:
    name = file.path.name.lower()
    if name.endswith((*JSON_LINES, *QUESTION_FILES)):
        start = 0 if name.endswith(PARQUET) else None
        return _prompts(rows_of(file), start=start, is_table=name.endswith(CSV))
    if name.endswith(TSV):
        return _table_prompts(file)
    if lines:
        return _line_prompts(file)
    text = well_formed("\n".join(read_lines(file.path)))
    return [Prompt(file.name, text)] if text.strip() else []


def _with_qrels(prompts: Sequence[Prompt], path: Path, qrels: Path) -> list[Prompt]:
    grades = read_qrels(qrels)
    judged = [replace(p, relevant=grades[p.id]) for p in prompts if p.id in grades]
    if not judged:
        raise CorpusError(
            f"{qrels} judges none of the {len(prompts)} prompts of {path}: it has queries such as "
            f"{next(iter(grades))!r}, and the prompts have ids such as {prompts[0].id!r}"
        )
    return judged


def _table_prompts(file: SourceFile) -> list[Prompt]:
    prompts: list[Prompt] = []
    lines = read_lines(file.path)
    if has_lists(lines):
        return _prompts(rows_of_csv(file))
    names = next(iter(lines), "").split("\t")
    if has_header(names):
        # The first column is the id, as without names, unless it is the question.
        first = "" if has_header(names[:1]) else names[0].strip()
        rows = ((place, {"id": row.get(first), **row}) for place, row in rows_of_csv(file))
        return _prompts(rows, is_table=True)
    for number, line in enumerate(lines, start=1):
        identifier, tab, text = line.partition("\t")
        if tab and identifier.strip() and text.strip():
            prompts.append(Prompt(well_formed(identifier.strip()), well_formed(text.strip())))
        elif line.strip():
            raise CorpusError(
                f"{Location(file.name, 'line', number)}: not an id, a tab and a question"
            )
    return prompts


def _line_prompts(file: SourceFile) -> list[Prompt]:
    texts = [line.strip() for line in read_lines(file.path) if line.strip()]
    if texts and is_object(texts[0]):  # as the makers of RACE name their files
        raise CorpusError(f"{file.name}: the lines are JSON: name the file .json or .jsonl")
    return [
        Prompt(Location(file.name, "line", number).id, text)
        for number, text in enumerate(texts, start=1)
    ]


def _prompts(
    rows: Iterable[Row], *, start: int | None = None, is_table: bool = False
) -> list[Prompt]:
    located = questions_of(rows, start=start, is_table=is_table)
    prompts = [_prompt(location, fields) for location, fields in located]
    _check_ids(prompts, [location for location, _ in located])
    return prompts


def _prompt(location: Location, fields: Mapping[str, object]) -> Prompt:
    key = next((name for name in QUESTIONS if not is_blank(fields.get(name))), None)
    if key is None:
        named = ", ".join(map(repr, fields)) or "none"
        raise CorpusError(
            f'{location}: there is no "question" and no "text": the fields with a value are {named}'
        )
    text = fields[key]
    if not isinstance(text, str):
        raise CorpusError(
            f'{location}: "{key}" must be a string with a text, got {type(text).__name__}'
        )
    question = Question.of(location, fields)
    try:
        return Prompt(
            id=label_of(fields, "id") or label_of(fields, "_id") or location.id,
            text=well_formed(text),
            group=next(filter(None, (label_of(fields, key) for key in _GROUPS)), "all"),
            source=label_of(fields, "source") or _title(fields),
            answers=tuple(map(result_of, question.answers)),
            choices=question.choices,
            correct=question.correct,
            relevant=cast("Relevant", fields.get("relevant", ())),
        )
    except ArgumentError as error:
        raise CorpusError(f"{location}: {error}") from error


def _title(fields: Mapping[str, object]) -> str:
    """Return the title of a question's passage, of which SQuAD has several; "" if it has none."""
    return label_of(fields, "title") if "context" in fields else ""
