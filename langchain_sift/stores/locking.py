"""Lock the folder of an embedded store against other processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from langchain_sift.errors import StoreError, StoreInUse

LOCK = ".langchain-sift.lock"
"""Name of the lock's file in the folder."""

DATABASE = "chroma.sqlite3"
"""Name of Chroma's file in the folder."""


@contextmanager
def locked(store: str | Path, *, exclusive: bool) -> Iterator[None]:
    """Lock the folder of an embedded store; do nothing for the URL of a server.

    Chroma's embedded store is made for one process: a second process does not see what the first
    writes, and both write the index. Several readers may share the lock while no process writes.
    The lock ends with its process. It is advisory: other programs do not respect it.

    Args:
        store: Chroma's folder, or the URL of its server.
        exclusive: If True, no other process may hold the lock, as for a writer or a server.

    Raises:
        StoreInUse: If another process holds the lock, and either of the two needs it exclusively.
        StoreError: If the folder cannot be locked.
    """
    folder = Path(store)
    if not (folder / DATABASE).is_file():  # no other process can have it open
        yield
        return
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
    try:
        yield
    finally:
        lock.close()
