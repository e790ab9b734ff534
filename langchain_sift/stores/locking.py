"""Whether other processes may have the folder of an embedded store open meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from langchain_sift.errors import StoreError, StoreInUse

LOCK = ".langchain-sift.lock"
"""The file's name in the folder."""

DATABASE = "chroma.sqlite3"
"""Chroma's file in the folder."""


@contextmanager
def held(where: str | Path, *, alone: bool) -> Iterator[None]:
    """Hold the folder of an embedded store; nothing is held where `where` is a server's URL.

    Chroma's embedded store belongs to one process: another one does not see what is written
    meanwhile, and both write its index. Readers may come together for as long as nobody writes.
    A lock dies with its process. It is advisory: other programs do not know of it.

    Args:
        where: Chroma's folder, or the URL of its server.
        alone: Whether nobody else may hold it, as for a writer or a server.

    Raises:
        StoreInUse: If another process holds it, and either of both wants it alone.
        StoreError: If the folder cannot be locked.
    """
    folder = Path(where)
    if not (folder / DATABASE).is_file():  # nothing is shared yet
        yield
        return
    try:
        lock = ReadWriteLock(folder / LOCK, timeout=0, is_singleton=False)
        _ = lock.acquire_write(timeout=0) if alone else lock.acquire_read(timeout=0)
    except Timeout:
        raise StoreInUse(
            f"{folder} is open elsewhere: stop what has it open (a `langchain-sift serve`, say), "
            f"or let both share a server: `chroma run --path {folder}`, and name its URL"
        ) from None
    except (OSError, ValueError, sqlite3.Error) as error:
        raise StoreError(f"{folder} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.close()
