"""Name files by their full paths, and look at them without an error.

The functions of `os.path` have an answer for every name, also one that is too long or may not be
looked at. Those of `Path` do not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from langchain_sift.ttft.texts import well_formed

# ruff: noqa: PTH112, PTH113, PTH114


def is_file(path: Path) -> bool:
    """Return True for a file, or a link to one; pipes and sockets are none."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Return True for a folder, or a link to one."""
    return os.path.isdir(path)


def is_link(path: Path) -> bool:
    """Return True for a symbolic link."""
    return os.path.islink(path)


def is_there(path: Path) -> bool:
    """Return True if there is something of this name, also a link to nothing."""
    return os.path.lexists(path)


def has_entries(folder: Path) -> bool:
    """Return True for a folder with anything in it that can be listed."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def full_path(path: Path) -> str:
    """Return the full path of a file or folder that is named.

    Links are resolved, except the last part of a path that is no folder.
    """
    folder, name = (path, "") if is_folder(path) else (path.parent, path.name)
    return well_formed(str(Path(os.path.realpath(folder)) / name))


def path_within(root: str, folder: Path, path: Path) -> str:
    """Return the full path of what lies in a folder; its links are not resolved.

    Args:
        root: The full path of the folder.
        folder: The folder.
        path: A path that begins with the folder.
    """
    return well_formed(str(Path(root) / path.relative_to(folder)))


def at_or_above(path: str) -> Iterator[str]:
    """Yield a full path, and those of the folders above it."""
    yield path
    yield from map(str, PurePath(path).parents)
