"""Lock an embedded store for one process, or for several readers."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import chromadb
import pytest

from langchain_sift.errors import StoreError, StoreInUse
from langchain_sift.indexing.chroma_clients import connect
from langchain_sift.indexing.chroma_collections import find_collection
from langchain_sift.stores.locking import LOCK, holds_database, is_free, locked


@pytest.fixture
def folder(tmp_path):
    client = chromadb.PersistentClient(str(tmp_path / "store"))
    client.create_collection("facts", embedding_function=None)
    return tmp_path / "store"


@pytest.fixture
def elsewhere():
    """Return a function that locks a folder in another process, until that is killed."""
    processes = []

    def hold(folder, *, alone):
        program = f"""
            import time
            from langchain_sift.stores.locking import locked
            with locked({str(folder)!r}, exclusive={alone}):
                print("held", flush=True)
                time.sleep(600)
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait(60)
        process.stdout.close()


@pytest.mark.slow
def test_an_exclusive_lock_excludes_all_others(folder, elsewhere):
    other = elsewhere(folder, alone=True)
    for alone in (True, False):
        with (
            pytest.raises(StoreInUse, match="chroma run --path") as raised,
            locked(folder, exclusive=alone),
        ):
            pass
        assert str(folder) in str(raised.value)
    other.kill()
    other.wait(60)
    deadline = time.monotonic() + 60
    while True:  # a lock dies with its process, though not within the same instant
        try:
            with locked(folder, exclusive=True):
                break
        except StoreInUse:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_readers_share_the_lock_and_exclude_writers(folder, elsewhere):
    elsewhere(folder, alone=False)
    with locked(folder, exclusive=False), locked(folder, exclusive=False):
        pass
    with pytest.raises(StoreInUse), locked(folder, exclusive=True):
        pass


def test_the_lock_is_released_after_an_error(folder):
    with pytest.raises(KeyError), locked(folder, exclusive=True):
        raise KeyError
    with locked(folder, exclusive=True), pytest.raises(StoreInUse), locked(folder, exclusive=False):
        pass
    assert (folder / LOCK).exists()
    assert chromadb.PersistentClient(str(folder)).list_collections()


def test_a_server_and_a_folder_without_a_store_are_not_locked(tmp_path):
    for where in ("http://localhost:8000", "https://chroma.example", tmp_path, tmp_path / "new"):
        with locked(where, exclusive=True), locked(where, exclusive=True):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_locked_while_it_is_made(tmp_path):
    folder = tmp_path / "new" / "store"
    with locked(folder, exclusive=True, creates=True):
        with pytest.raises(StoreInUse), locked(folder, exclusive=True, creates=True):
            pass
        chromadb.PersistentClient(str(folder))
        for alone in (True, False):
            with pytest.raises(StoreInUse), locked(folder, exclusive=alone):
                pass
    with locked(folder, exclusive=True, creates=True):
        pass
    assert not is_free(folder)


def test_nothing_stays_of_a_store_that_was_not_made(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for name in ("new/store", "empty", "other", "other/file"):
        with pytest.raises(KeyError), locked(tmp_path / name, exclusive=True, creates=True):
            raise KeyError
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", ["file/store", "file/store/deep"])
def test_a_folder_that_cannot_be_made_is_named_with_the_cure(tmp_path, where):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cannot be made: .*name another folder"),
        locked(tmp_path / where, exclusive=True, creates=True),
    ):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_folder_is_free_after_a_run_that_was_killed(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / LOCK).touch()
    assert is_free(folder)
    assert is_free(tmp_path / "new")
    with locked(folder, exclusive=True, creates=True):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("where", ["x" * 300, "store"])
def test_a_folder_that_cannot_be_looked_at_is_a_store_error(folder, where, monkeypatch):
    """The file system refuses the long name; the other stands for a folder of another user."""

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    if where == "store":
        monkeypatch.setattr(Path, "stat", refuse)
    for use in (holds_database, connect, functools.partial(find_collection, name="facts")):
        with pytest.raises(StoreError, match=r"cannot be looked at: (File name|Permission)"):
            use(folder.parent / where)
    with (
        pytest.raises(StoreError, match="name another"),
        locked(folder.parent / where, exclusive=True),
    ):
        pass


def test_a_folder_that_cannot_be_locked_is_a_store_error(folder):
    (folder / LOCK).mkdir()
    with pytest.raises(StoreError, match="cannot be locked"), locked(folder, exclusive=True):
        pass
