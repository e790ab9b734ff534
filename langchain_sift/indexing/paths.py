"""Name files by their full paths, and look at them without an error.

The functions of `os.path` have an answer for every name, also one that is too long or may not be
looked at. Those of `Path` do not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.texts import well_formed

# ruff: noqa: PTH112, PTH113, PTH114, PTH120


def named_path(text: str) -> Path:
    """Return the path that a user names.

    Raises:
        ArgumentError: If the text is empty, such as a variable that is not set. `Path` takes it for
            the current folder.
    """
    if not text.strip():
        raise ArgumentError(
            "a path is empty: name a file or a folder; the name of the current folder is ."
        )
    return Path(text)


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


def is_mount(path: str) -> bool:
    """Return True for a folder on which a disk is mounted."""
    return os.path.ismount(path)


def mounts_of(paths: Iterable[str]) -> Iterator[str]:
    """Yield for each full path the folder on which the disk that holds it is mounted."""
    mounts: dict[str, str] = {}
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in mounts:
            real = os.path.realpath(folder)
            mounts[folder] = next(filter(is_mount, at_or_above(real)), "")
        yield mounts[folder]


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
