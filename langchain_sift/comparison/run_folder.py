"""Keep the rows of a comparison in a folder, so that a killed run loses and repeats none."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

from langchain_sift.comparison.row_files import (
    append,
    row_line,
    row_of,
    text_line,
    whole_lines,
    write_file,
)
from langchain_sift.comparison.tasks import PROTOCOLS
from langchain_sift.errors import ArgumentError
from langchain_sift.indexing.own_files import run_settings
from langchain_sift.indexing.paths import is_there, named_path
from langchain_sift.report.file_names import PLOTS, PROMPTS, ROWS, RUN, TEXTS, report_files
from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row, in_order, plain

_FILES = (ROWS, TEXTS, PROMPTS, *report_files(PROTOCOLS), RUN)
"""The files that a comparison writes: it writes `RUN` first, and removes it last."""

_LOCK = ".compare.lock"
_NAMED_FILES = 3  # in a message

Key = tuple[str, str, str, int]


class RunFolder:
    """The folder with the rows of one comparison."""

    def __init__(
        self, path: Path | str, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()
    ) -> None:
        """Check the folder, and make it if it does not exist. Call `begin` before the others.

        Args:
            path: The folder.
            resume: If True, continue the comparison that the folder holds.
            overwrite: If True, replace the comparison that the folder holds.
            inputs: The files that the comparison reads.

        Raises:
            ArgumentError: If the folder holds a comparison and neither is True, both are True, the
                folder cannot be written to, or a file of the user would be replaced.
        """
        if resume and overwrite:
            raise ArgumentError(
                "continue the comparison (--resume) or replace it (--overwrite): choose one of them"
            )
        if not isinstance(path, Path | str):
            raise ArgumentError(f"out must be the name of a folder, got {path!r}")
        self.path = named_path(str(path))
        self._resume, self._overwrite = resume, overwrite
        self.rows: dict[Key, Row] = {}
        """The rows so far."""
        self.texts: dict[str, str] = {}
        """The beginning of each document that was chosen, by its id."""
        try:
            self._check_free()
            self._check_inputs(inputs)
            above = (self.path, *self.path.parents)
            self._made = [each for each in above if not each.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ArgumentError(
                f"{path} is no folder that can be written to: {error.strerror}"
            ) from error

    def _check_free(self) -> None:
        """Reject a folder with a comparison that shall stay, or with files of these names."""
        if self.path.is_file():
            raise ArgumentError(f"{self.path} is a file: name a folder")
        if run_settings(self.path) is not None:
            if not (self._resume or self._overwrite):
                raise ArgumentError(
                    f"{self.path} already holds a comparison: continue it (--resume), replace it "
                    "(--overwrite), or name another folder"
                )
        elif taken := [name for name in _FILES if is_there(self.path / name)]:
            others = ", ..." if len(taken) > _NAMED_FILES else ""
            raise ArgumentError(
                f"{self.path} holds no comparison, but files that one would replace: "
                f"{', '.join(taken[:_NAMED_FILES])}{others}: name another folder"
            )

    def _check_inputs(self, inputs: Iterable[Path]) -> None:
        written = {(self.path / name).resolve() for name in _FILES}
        for each in inputs:
            if each.resolve() in written:
                raise ArgumentError(
                    f"{each} is read, and the comparison would replace it: name another folder "
                    "than its own"
                )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other comparisons; if an error leaves it empty, remove it.

        Raises:
            ArgumentError: If another comparison holds the lock, or the folder cannot be locked.
        """
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ArgumentError(
                f"another comparison writes into {self.path}: wait for its end, or name another "
                "folder"
            ) from None
        except OSError as error:
            raise ArgumentError(f"{self.path} cannot be locked: {error.strerror}") from error
        try:
            yield
        except BaseException:
            with suppress(OSError):  # such as a folder that is not empty
                (self.path / _LOCK).unlink()
                for folder in self._made:
                    folder.rmdir()
            raise
        finally:
            lock.release()

    def begin(self, settings: Mapping[str, object]) -> None:
        """Read the rows of an earlier run, or remove them, and write the settings.

        Args:
            settings: The settings of the comparison; rows of other settings are never mixed in.

        Raises:
            ArgumentError: If the folder holds a comparison with other settings, or one that was
                begun meanwhile.
        """
        wanted = json.loads(json.dumps(plain(settings)))  # the form in which it is read again
        self._check_free()
        if self._overwrite:
            self._clear()
        stored = run_settings(self.path)
        if stored is not None:
            self._check(stored, wanted)
            self._read()
        write_file(self.path / RUN, json.dumps(wanted, ensure_ascii=False, indent=1))

    def _clear(self) -> None:
        """Remove the files of a comparison, and no others."""
        for name in _FILES:  # `RUN` last: a kill leaves a folder that can be cleared again
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # such as a folder that holds other files
            (self.path / PLOTS).rmdir()

    def _check(self, stored: Mapping[str, Any], wanted: Mapping[str, object]) -> None:
        other = [key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key)]
        if other:
            changes = "; ".join(
                f"{key} was {stored.get(key)!r}, is {wanted.get(key)!r}" for key in sorted(other)
            )
            raise ArgumentError(
                f"{self.path} holds a comparison with other settings ({changes}): repeat those, "
                "or start again with --overwrite"
            )

    def _read(self) -> None:
        for value in whole_lines(self.path / TEXTS):
            self.texts[value["id"]] = value["text"]
        for value in whole_lines(self.path / ROWS):
            row = row_of(value)
            self.rows[row.key] = row

    def describe(
        self,
        prompts: Mapping[str, str],
        references: Mapping[str, str],
        leaks: Mapping[str, str],
        relevant: Mapping[str, Sequence[str]],
    ) -> None:
        """Write the report's facts about each prompt, as in the fields of `Report`."""
        others = dict.fromkeys(leaks.keys() - prompts.keys(), "")
        lines = (
            json.dumps(
                {
                    "id": key,
                    "text": text,
                    "reference": references.get(key),
                    "leak": leaks.get(key),
                    "relevant": relevant.get(key),
                }
            )
            + "\n"
            for key, text in (dict(prompts) | others).items()
        )
        write_file(self.path / PROMPTS, "".join(lines))

    def keep(self, keys: Collection[Key]) -> None:
        """Remove all rows but these; the others are measured again, with their batch."""
        self.rows = {key: row for key, row in self.rows.items() if key in keys}
        write_file(self.path / ROWS, "".join(map(row_line, self.rows.values())))
        write_file(
            self.path / TEXTS,
            "".join(text_line(key, text) for key, text in self.texts.items()),
        )

    def add(self, rows: Iterable[Row], texts: Mapping[str, str]) -> None:
        """Append rows, and the texts of documents that are new."""
        new = {key: text for key, text in texts.items() if key not in self.texts}
        added = list(rows)
        append(self.path / TEXTS, "".join(text_line(k, text) for k, text in new.items()))
        append(self.path / ROWS, "".join(map(row_line, added)))
        self.texts |= new
        self.rows |= {row.key: row for row in added}


def read_report(path: Path) -> Report:
    """Read the report of a comparison, complete or not.

    Raises:
        ArgumentError: If the folder holds none.
    """
    settings = run_settings(path)
    if settings is None:
        raise ArgumentError(f"{path} holds no comparison: {RUN} cannot be read")
    rows = {row.key: row for row in map(row_of, whole_lines(path / ROWS))}
    prompts = whole_lines(path / PROMPTS)
    order = {prompt["id"]: index for index, prompt in enumerate(prompts)}
    return Report(
        rows=tuple(in_order(rows.values(), settings["protocols"], order, settings["methods"])),
        settings=settings,
        texts={value["id"]: value["text"] for value in whole_lines(path / TEXTS)},
        prompt_texts={prompt["id"]: prompt["text"] for prompt in prompts},
        references={
            prompt["id"]: prompt["reference"] for prompt in prompts if prompt.get("reference")
        },
        leaks={prompt["id"]: prompt["leak"] for prompt in prompts if prompt["leak"]},
        relevant={
            prompt["id"]: tuple(prompt["relevant"]) for prompt in prompts if prompt.get("relevant")
        },
    )
