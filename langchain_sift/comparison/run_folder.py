"""A comparison's folder: rows as they come, so that no kill loses or repeats one."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
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


def refuse_present(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a comparison, unless it is known what to do with it.

    Raises:
        ArgumentError: If it holds one, and neither or both are asked for; or it is a file.
    """
    if resume and overwrite:
        raise ArgumentError("to go on (--resume) or to replace (--overwrite): choose one of them")
    try:
        is_file, present = path.is_file(), _is_present(path)
    except OSError as error:
        raise ArgumentError(f"{path} can be no folder: {error.strerror}") from error
    if is_file:
        raise ArgumentError(f"{path} is a file: name a folder")
    if present and not (resume or overwrite):
        raise ArgumentError(
            f"{path} holds a comparison already: go on with it (--resume), replace it "
            "(--overwrite), or name another folder"
        )


def make_folder(path: Path) -> None:
    """Make a folder where there is none, and see that something can be written into it.

    Raises:
        ArgumentError: If it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ArgumentError(
            f"{path} is no folder that can be written to: {error.strerror}"
        ) from error


def _is_present(path: Path) -> bool:
    return (path / _RUN).exists() or (path / _ROWS).exists()


class RunFolder:
    """Where the rows of one comparison are kept."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        """Open the folder, or make it.

        Args:
            path: The folder.
            settings: What the comparison is run with: another one's rows are never mixed in.
            resume: Whether to go on with the rows that are there.
            overwrite: Whether to throw away those of an earlier comparison.

        Raises:
            ArgumentError: If there are rows, and neither was asked for; or if they are of a
                comparison with other settings.
        """
        self._path = path
        self.rows: dict[Key, Row] = {}
        """What is there already."""
        self.texts: dict[str, str] = {}
        """The beginning of each document that was chosen."""
        # As it will be read again.
        wanted = json.loads(json.dumps(plain(settings)))
        refuse_present(path, resume=resume, overwrite=overwrite)
        if overwrite:
            self._clear()
        if _is_present(path):
            self._check(wanted)
            self._read()
        make_folder(path)
        _write(path / _RUN, json.dumps(wanted, ensure_ascii=False, indent=1))

    def _clear(self) -> None:
        """Remove what a comparison wrote, and nothing else."""
        for name in (_ROWS, _TEXTS, _RUN, _PROMPTS, "report.html", "report.md", "results.json"):
            (self._path / name).unlink(missing_ok=True)
        shutil.rmtree(self._path / "plots", ignore_errors=True)

    def _check(self, wanted: Mapping[str, Any]) -> None:
        try:
            found = json.loads((self._path / _RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ArgumentError(
                f"{self._path / _RUN} cannot be read: start anew with --overwrite"
            ) from None
        other = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
        if other:
            told = "; ".join(
                f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}" for key in sorted(other)
            )
            raise ArgumentError(
                f"{self._path} holds a comparison with other settings ({told}): repeat those, or "
                "start anew with --overwrite"
            )

    def _read(self) -> None:
        """Read the rows; a last line that a kill has cut is as if it had never been begun."""
        for value in _whole_lines(self._path / _TEXTS):
            self.texts[value["id"]] = value["text"]
        for value in _whole_lines(self._path / _ROWS):
            row = _row(value)
            self.rows[row.key] = row

    def describe(self, prompts: Mapping[str, str], leaks: Mapping[str, str]) -> None:
        """Write what the prompts are, and of which the store holds what is scored."""
        others = dict.fromkeys(leaks.keys() - prompts.keys(), "")
        lines = (
            json.dumps({"id": key, "text": text, "leak": leaks.get(key)}) + "\n"
            for key, text in (dict(prompts) | others).items()
        )
        _write(self._path / _PROMPTS, "".join(lines))

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all rows but these: the others will be measured again, with their batch."""
        kept = {key: row for key, row in self.rows.items() if key in keys}
        self.rows = kept
        _write(self._path / _ROWS, "".join(map(_line, kept.values())))
        _write(
            self._path / _TEXTS,
            "".join(_text_line(key, text) for key, text in self.texts.items()),
        )

    def add(self, rows: Iterable[Row], texts: Mapping[str, str]) -> None:
        """Append rows, and the texts of documents that are new."""
        new = {key: text for key, text in texts.items() if key not in self.texts}
        added = list(rows)
        _append(self._path / _TEXTS, "".join(_text_line(k, text) for k, text in new.items()))
        _append(self._path / _ROWS, "".join(map(_line, added)))
        self.texts |= new
        self.rows |= {row.key: row for row in added}


def read_report(path: Path) -> Report:
    """Return what is in a folder that a comparison wrote, complete or not.

    Raises:
        ArgumentError: If there is none.
    """
    try:
        settings = json.loads((path / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"{path} holds no comparison: there is no {_RUN} in it that can be read"
        ) from error
    rows = {row.key: row for row in map(_row, _whole_lines(path / _ROWS))}
    prompts = _whole_lines(path / _PROMPTS)
    order = {prompt["id"]: place for place, prompt in enumerate(prompts)}
    return Report(
        rows=tuple(in_order(rows.values(), settings["protocols"], order, settings["methods"])),
        settings=settings,
        texts={value["id"]: value["text"] for value in _whole_lines(path / _TEXTS)},
        prompt_texts={prompt["id"]: prompt["text"] for prompt in prompts},
        leaks={prompt["id"]: prompt["leak"] for prompt in prompts if prompt["leak"]},
    )


def _line(row: Row) -> str:
    return json.dumps(plain(asdict(row)), ensure_ascii=True) + "\n"


def _text_line(identifier: str, text: str) -> str:
    return json.dumps({"id": identifier, "text": text}, ensure_ascii=True) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:  # cut by a kill, and others appended behind it
            continue
    return found


def _row(value: dict[str, Any]) -> Row:
    for name in _FLOATS:
        value[name] = math.nan if value[name] is None else value[name]
    chosen = [
        ChosenDocument(
            id=one["id"],
            gain=math.nan if one["gain"] is None else one["gain"],
            posterior_variance=(
                math.nan if one["posterior_variance"] is None else one["posterior_variance"]
            ),
            copies=one["copies"],
        )
        for one in value["chosen"]
    ]
    return Row(**{**value, "chosen": tuple(chosen), "used_indices": tuple(value["used_indices"])})


def _append(path: Path, text: str) -> None:
    if text:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: at no time is it half there."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
