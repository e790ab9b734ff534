"""Recognise files and folders that hold no documents to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from langchain_sift.indexing.own_files import is_own_file
from langchain_sift.indexing.paths import is_folder, is_there

_NAMES = frozenset({"__MACOSX", "__pycache__", "node_modules", "desktop.ini", "Thumbs.db"})
_PREFIXES = (".", "~$")  # hidden files, AppleDouble's ._*, the locks of open documents
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# A folder with one of these holds a virtual environment, one of conda, a cache, or an adapter.
_MARKS = ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG", "adapter_config.json")

ARROW_FILES = (
    "a dataset as Hugging Face's `datasets` saves it, in Arrow files, which are not read: load it "
    'with `load_from_disk`, and save each of its splits with `to_json("rows.jsonl")`'
)
"""Message on a folder for which `holds_arrow_files` is True."""


def is_left_out(path: Path) -> bool:
    """Return True for a file or folder that is hidden, or that a program wrote for itself."""
    name = path.name
    if name.startswith(_PREFIXES) or name in _NAMES:
        return True
    if not is_folder(path):
        return is_own_file(path)
    return bool(_CHECKPOINT.fullmatch(name)) or any(is_there(path / mark) for mark in _MARKS)


def holds_arrow_files(names: Sequence[str]) -> bool:
    """Return True for the names of the files that `save_to_disk` writes into a folder."""
    has_arrow = any(name.endswith(".arrow") for name in names)
    return "dataset_dict.json" in names or ("dataset_info.json" in names and has_arrow)
