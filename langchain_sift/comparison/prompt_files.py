"""Find the files of a folder that hold prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_sift.comparison.question_files import (
    QUESTION_FILES,
    has_header,
    has_lists,
    names_question,
)
from langchain_sift.errors import CorpusError
from langchain_sift.indexing.folders import SourceFile, files_of
from langchain_sift.indexing.formats import JSON_LINES, TSV, read_lines
from langchain_sift.indexing.paths import is_folder, named_path

TEXTS = (".txt", ".md")
_ENDINGS = (*JSON_LINES, *TEXTS, *QUESTION_FILES, *TSV)

_LICENCES = "mit|apache|bsd|[al]?gpl|mpl|epl|cc|cc0|isc|odc|odbl|unlicense|lesser|3rd|third"
_SUFFIXES = r"[a-z]{2}([_-][a-z]{2,4})?|v?\d[\w.]*|data|dataset|code"  # zh-Hans is a language
_ABOUT = re.compile(
    rf"(readme([._-]({_SUFFIXES}))?|"
    rf"(licen[cs]e|copying)([._-](({_LICENCES})(v?\d[\w.]*)?([._-][\w.-]*)?|{_SUFFIXES}))?|"
    r"notice|copyright|authors|citation|changelog|contributing|code_of_conduct)\.(txt|md)",
    re.IGNORECASE,
)
"""Names of texts about a dataset."""

_SHOWN_FILES = 3

_Kind = Callable[[Sequence[SourceFile]], Sequence[SourceFile]]
"""Takes the files of a kind, from all files of a folder."""


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """The files of a path that hold prompts."""

    files: tuple[SourceFile, ...]

    left_out: tuple[str, ...] = ()
    """Names of the other files that might hold prompts."""

    @classmethod
    def find(cls, path: Path | str) -> PromptFiles:
        """Return a file, or the files of a folder.

        If the folder has questions as JSON lines, only these are read; else the other formats of
        questions; else the tables; else the texts. A file has questions if its first row or its
        header names one. Beside questions, a file of their kind that cannot be read is an error.
        Texts about a dataset, such as its README and LICENSE, are no prompts. If nothing else is
        there, a file without questions is read, whose error names what is wrong.

        Raises:
            ArgumentError: If the path is empty.
            CorpusError: If there is no such file.
        """
        found = files_of(path, endings=_ENDINGS)
        if not is_folder(named_path(str(path))):
            return cls(found)
        files = [file for file in found if not _is_about(file)]
        read = next(filter(None, (of_kind(files) for of_kind in _KINDS)), ())
        if not read:
            raise CorpusError(
                f"{path}: none of its files holds prompts: add files that end with one of "
                f"{', '.join((*JSON_LINES, *QUESTION_FILES, *TEXTS))}, or name a table (.tsv)"
            )
        # Beside texts, one about a dataset may be meant as a prompt.
        others = found if _is_text(read[0]) else files
        left_out = tuple(file.name for file in others if file not in read)
        return cls(tuple(read) if len(read) > 1 else (SourceFile.of(read[0].path),), left_out)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on the files that are left out; none if there are none."""
        if not self.left_out:
            return ()
        more = len(self.left_out) - _SHOWN_FILES
        others = f" and {more} more" if more > 0 else ""
        kinds = [end for end in _ENDINGS if any(map(_ends_with([end]), self.files))]
        return (
            f"the prompts are those of the {' and '.join(kinds)} files, without "
            f"{', '.join(self.left_out[:_SHOWN_FILES])}{others}: name a file to read it",
        )


def _ends_with(endings: Sequence[str]) -> Callable[[SourceFile], bool]:
    return lambda file: file.path.name.lower().endswith(tuple(endings))


_is_text = _ends_with(TEXTS)
_may_hold_questions = _ends_with(QUESTION_FILES)
_has_json_lines = _ends_with(JSON_LINES)


def _is_about(file: SourceFile) -> bool:
    return _ABOUT.fullmatch(file.path.name) is not None


def _is_table_of_questions(file: SourceFile) -> bool:
    """Return True for a table that is not one of ids and judgments, such as qrels."""
    if not _ends_with(TSV)(file):
        return False
    lines = read_lines(file.path)
    return has_lists(lines) or has_header(next(iter(lines), "").split("\t"))


def _with_questions(is_of_kind: Callable[[SourceFile], bool]) -> _Kind:
    """Return the function that takes the files of a kind with questions.

    If there are any, it also takes those that cannot be read: their error is not hidden.
    """

    def of_kind(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
        """Return these files, or none."""
        found = {file: _has_questions(file) for file in files if is_of_kind(file)}
        has_some = any(found.values())
        return [file for file, has in found.items() if has or (has is None and has_some)]

    return of_kind


def _has_questions(file: SourceFile) -> bool | None:
    """Return None for a file that cannot be read."""
    try:
        return names_question(file)
    except CorpusError:
        return None


def _all(is_of_kind: Callable[[SourceFile], bool]) -> _Kind:
    return lambda files: [*filter(is_of_kind, files)]


_KINDS = (
    _with_questions(_has_json_lines),
    _with_questions(_may_hold_questions),
    _all(_is_table_of_questions),
    _all(_is_text),
    _all(_has_json_lines),
    _all(_may_hold_questions),
)
