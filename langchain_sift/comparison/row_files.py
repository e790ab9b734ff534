"""Read and write the files of a run folder, whose lines are JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langchain_sift.report.rows import ChosenDocument, Row, plain

_FLOATS = ("bits", "redundancy", "prior_variance")


def row_line(row: Row) -> str:
    """Return the line of a row."""
    return json.dumps(plain(asdict(row)), ensure_ascii=True) + "\n"


def text_line(identifier: str, text: str) -> str:
    """Return the line of a document."""
    return json.dumps({"id": identifier, "text": text}, ensure_ascii=True) + "\n"


def whole_lines(path: Path) -> list[dict[str, Any]]:
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


def row_of(value: dict[str, Any]) -> Row:
    """Return the row of a line's values."""
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


def append(path: Path, text: str) -> None:
    """Append lines to a file, on the disk when this returns."""
    if text:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def write_file(path: Path, text: str) -> None:
    """Replace a file as a whole, so that no reader sees half of it."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
