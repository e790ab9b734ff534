"""Recognise files that the commands wrote: they are no documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.errors import ArgumentError
from langchain_sift.report.file_names import MARKDOWN, PAGE, PROMPTS, RESULTS, ROWS, RUN, TEXTS

_OF_A_COMPARISON = frozenset({ROWS, TEXTS, PROMPTS, RUN, PAGE, MARKDOWN, RESULTS})
_BEGIN_OF_SETTINGS = b'{\n  "version": '  # spares reading every JSON file


def is_own_file(path: Path) -> bool:
    """Return True for a file that `compare` or `calibrate` wrote."""
    if path.name in _OF_A_COMPARISON and run_settings(path.parent) is not None:
        return True
    return path.suffix == ".json" and _holds_calibrated_settings(path)


def run_settings(folder: Path) -> Mapping[str, Any] | None:
    """Return the settings of the comparison in a folder; None if they cannot be read."""
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and {"protocols", "methods"} <= found.keys()
    return found if is_ours else None


def _holds_calibrated_settings(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(len(_BEGIN_OF_SETTINGS)) != _BEGIN_OF_SETTINGS:
                return False
        CalibratedSettings.load(path)
    except (OSError, ArgumentError):
        return False
    return True
