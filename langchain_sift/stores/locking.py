"""Lock the folder of an embedded store against other processes."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from langchain_sift.errors import StoreError, StoreInUse
from langchain_sift.stores.location import is_url

LOCK = ".langchain-sift.lock"
"""Name of the lock's file in the folder."""

DATABASE = "chroma.sqlite3"
"""Name of Chroma's file in the folder."""


def holds_database(folder: Path) -> bool:
    """Return True for a folder with Chroma's file in it.

    Raises:
        StoreError: If the folder cannot be looked at.
    """
    with _looking_at(folder):
        try:
            return stat.S_ISREG((folder / DATABASE).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a NUL in a name
            return False


def is_free(folder: Path) -> bool:
    """Return whether a store can be made in a folder: it holds nothing but a lock, or is not there.

    Raises:
        StoreError: If the folder cannot be looked at.
    """
    with _looking_at(folder):
        if not folder.exists():
            return True
        return folder.is_dir() and all(child.name == LOCK for child in folder.iterdir())


@contextmanager
def _looking_at(folder: Path) -> Iterator[None]:
    """Name the folder, and the cures, if it cannot be looked at."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be looked at: {error.strerror}: change the permissions, or name "
            "another folder"
        ) from error


@contextmanager
def locked(store: str | Path, *, exclusive: bool, creates: bool = False) -> Iterator[None]:
    """Lock the folder of an embedded store; do nothing for the URL of a server.

    Chroma's embedded store is made for one process: a second process does not see what the first
    writes, and both write the index. Several readers may share the lock while no process writes.
    The lock ends with its process. It is advisory: other programs do not respect it.

    Args:
        store: Chroma's folder, or the URL of its server.
        exclusive: If True, no other process may hold the lock, as for a writer or a server.
        creates: If True, a folder without a store is locked, too, and made if it is not there. If
            no store is in it at the end, nothing of it stays.

    Raises:
        StoreInUse: If another process holds the lock, and either of the two needs it exclusively.
        StoreError: If the folder cannot be looked at, or cannot be locked.
    """
    folder = Path(store)
    if is_url(store):
        yield
    elif holds_database(folder):
        with closing(_lock(folder, exclusive=exclusive)):
            yield
    elif creates and is_free(folder):
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            _make(folder)
            with closing(_lock(folder, exclusive=exclusive)):
                yield
        except StoreInUse:
            raise
        except BaseException:
            _remove_lock(folder, made)
            raise
        _remove_lock(folder, made)
    else:  # no other process can have it open
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made: {error.strerror}: change the permissions, or name another "
            "folder"
        ) from error


def _lock(folder: Path, *, exclusive: bool) -> ReadWriteLock:
    """Return the lock of a folder, held."""
    try:
        lock = ReadWriteLock(folder / LOCK, timeout=0, is_singleton=False)
        _ = lock.acquire_write(timeout=0) if exclusive else lock.acquire_read(timeout=0)
    except Timeout:
        raise StoreInUse(
            f"{folder} is open in another process: stop it (such as a `langchain-sift serve`), or "
            f"run a server for both, `chroma run --path {folder}`, and pass its URL"
        ) from None
    except (OSError, ValueError, sqlite3.Error) as error:
        raise StoreError(f"{folder} cannot be locked: {error}") from error
    return lock


def _remove_lock(folder: Path, made: Iterable[Path]) -> None:
    """Remove the lock, and the folders that were made for it, unless they hold a store."""
    with suppress(OSError):  # files that another process has put there meanwhile
        if holds_database(folder):
            return
        (folder / LOCK).unlink(missing_ok=True)
        for each in made:
            each.rmdir()
