"""Keep the rows of a comparison in a folder, so that a killed run loses and repeats none."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from langchain_sift.errors import ArgumentError
from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row, in_order, plain

_ROWS, _TEXTS, _RUN = "results.jsonl", "documents.jsonl", "run.json"
_PROMPTS = "prompts.jsonl"
_FLOATS = ("bits", "redundancy", "prior_variance")

Key = tuple[str, str, str, int]


class RunFolder:
    """The folder with the rows of one comparison."""

    def __init__(self, path: Path, *, resume: bool, overwrite: bool) -> None:
        """Check the folder, and make it if it does not exist. Call `begin` before the others.

        Args:
            path: The folder.
            resume: If True, continue the comparison that the folder holds.
            overwrite: If True, replace the comparison that the folder holds.

        Raises:
            ArgumentError: If the folder holds a comparison and neither is True, both are True, or
                the folder cannot be written to.
        """
        if resume and overwrite:
            raise ArgumentError(
                "continue the comparison (--resume) or replace it (--overwrite): choose one of them"
            )
        self.path = path
        self._overwrite = overwrite
        self.rows: dict[Key, Row] = {}
        """The rows so far."""
        self.texts: dict[str, str] = {}
        """The beginning of each document that was chosen, by its id."""
        try:
            if path.is_file():
                raise ArgumentError(f"{path} is a file: name a folder")
            if self._holds_comparison() and not (resume or overwrite):
                raise ArgumentError(
                    f"{path} already holds a comparison: continue it (--resume), replace it "
                    "(--overwrite), or name another folder"
                )
            self._made = [each for each in (path, *path.parents) if not each.exists()]
            path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ArgumentError(
                f"{path} is no folder that can be written to: {error.strerror}"
            ) from error

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Remove the folders that were made for the comparison, if an error leaves them empty."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # such as one that is not empty
                for folder in self._made:
                    folder.rmdir()
            raise

    def begin(self, settings: Mapping[str, object]) -> None:
        """Read the rows of an earlier run, or remove them, and write the settings.

        Args:
            settings: The settings of the comparison; rows of other settings are never mixed in.

        Raises:
            ArgumentError: If the folder holds a comparison with other settings.
        """
        wanted = json.loads(json.dumps(plain(settings)))  # the form in which it is read again
        if self._overwrite:
            self._clear()
        if self._holds_comparison():
            self._check(wanted)
            self._read()
        _write(self.path / _RUN, json.dumps(wanted, ensure_ascii=False, indent=1))

    def _holds_comparison(self) -> bool:
        return (self.path / _RUN).exists() or (self.path / _ROWS).exists()

    def _clear(self) -> None:
        """Remove the files of a comparison, and no others."""
        for name in (_ROWS, _TEXTS, _RUN, _PROMPTS, "report.html", "report.md", "results.json"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "plots", ignore_errors=True)

    def _check(self, wanted: Mapping[str, object]) -> None:
        try:
            stored = json.loads((self.path / _RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ArgumentError(
                f"{self.path / _RUN} cannot be read: start again with --overwrite"
            ) from None
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
        for value in _whole_lines(self.path / _TEXTS):
            self.texts[value["id"]] = value["text"]
        for value in _whole_lines(self.path / _ROWS):
            row = _row(value)
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
        _write(self.path / _PROMPTS, "".join(lines))

    def keep(self, keys: Collection[Key]) -> None:
        """Remove all rows but these; the others are measured again, with their batch."""
        self.rows = {key: row for key, row in self.rows.items() if key in keys}
        _write(self.path / _ROWS, "".join(map(_line, self.rows.values())))
        _write(
            self.path / _TEXTS,
            "".join(_text_line(key, text) for key, text in self.texts.items()),
        )

    def add(self, rows: Iterable[Row], texts: Mapping[str, str]) -> None:
        """Append rows, and the texts of documents that are new."""
        new = {key: text for key, text in texts.items() if key not in self.texts}
        added = list(rows)
        _append(self.path / _TEXTS, "".join(_text_line(k, text) for k, text in new.items()))
        _append(self.path / _ROWS, "".join(map(_line, added)))
        self.texts |= new
        self.rows |= {row.key: row for row in added}


def read_report(path: Path) -> Report:
    """Read the report of a comparison, complete or not.

    Raises:
        ArgumentError: If the folder holds none.
    """
    try:
        settings = json.loads((path / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path} holds no comparison: {_RUN} cannot be read") from error
    rows = {row.key: row for row in map(_row, _whole_lines(path / _ROWS))}
    prompts = _whole_lines(path / _PROMPTS)
    order = {prompt["id"]: index for index, prompt in enumerate(prompts)}
    return Report(
        rows=tuple(in_order(rows.values(), settings["protocols"], order, settings["methods"])),
        settings=settings,
        texts={value["id"]: value["text"] for value in _whole_lines(path / _TEXTS)},
        prompt_texts={prompt["id"]: prompt["text"] for prompt in prompts},
        references={
            prompt["id"]: prompt["reference"] for prompt in prompts if prompt.get("reference")
        },
        leaks={prompt["id"]: prompt["leak"] for prompt in prompts if prompt["leak"]},
        relevant={
            prompt["id"]: tuple(prompt["relevant"]) for prompt in prompts if prompt.get("relevant")
        },
    )


def _line(row: Row) -> str:
    return json.dumps(plain(asdict(row)), ensure_ascii=True) + "\n"


def _text_line(identifier: str, text: str) -> str:
    return json.dumps({"id": identifier, "text": text}, ensure_ascii=True) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file, except for lines that a kill has cut."""
    if not path.exists():
        return []
    objects = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            objects.append(json.loads(line))
        except ValueError:  # cut by a kill, with a later line appended
            continue
    return objects


def _row(value: dict[str, Any]) -> Row:
    for name in _FLOATS:
        value[name] = _nan_for_none(value[name])
    chosen = tuple(
        ChosenDocument(
            id=document["id"],
            gain=_nan_for_none(document["gain"]),
            posterior_variance=_nan_for_none(document["posterior_variance"]),
            copies=document["copies"],
        )
        for document in value["chosen"]
    )
    return Row(**{**value, "chosen": chosen, "used_indices": tuple(value["used_indices"])})


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


def _append(path: Path, text: str) -> None:
    if text:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole, so that no reader sees half of it."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
