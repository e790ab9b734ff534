"""A folder of 200 everyday files is indexed as a whole, and follows every change."""

from __future__ import annotations

from pathlib import Path

import chromadb
import pytest
from everyday_files import BROKEN, KINDS, make_folder
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_sift.indexing.file_runs import FileRun, index_files
from langchain_sift.indexing.synchronize import Changes

pytestmark = pytest.mark.slow


def index(store: Path, folder: Path) -> FileRun:
    embeddings = DeterministicFakeEmbedding(size=4)
    return index_files(str(store), "documents", [folder], "own:E", lambda _: embeddings)


def facts_in(store: Path) -> list[str]:
    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    return collection.get()["documents"]


def check(store: Path, written: dict[str, list[str]]) -> None:
    """Check that every fact is in a row, and no other."""
    text = "\n".join(facts_in(store))
    facts = [fact for each in written.values() for fact in each]
    assert [fact for fact in facts if fact not in text] == []
    assert text.count("is kept in") == len(facts)


def test_everything_readable_is_indexed_and_each_broken_file_is_listed(tmp_path: Path) -> None:
    folder, store = tmp_path / "files", tmp_path / "store"
    written = make_folder(folder)
    assert (len(KINDS) >= 15, len(BROKEN), len(written)) == (True, 20, 180)
    first = index(store, folder)
    assert first.read.files == 180
    assert len(first.problems) == 20
    assert all(any(f"/{name}" in one for one in first.problems) for name in BROKEN)
    check(store, written)

    again = index(store, folder)
    assert again.changes == Changes(0, 0, 0, unchanged=first.changes.added)
    assert len(again.problems) == 20

    names = sorted(written)
    for name in names[:30]:
        (folder / name).unlink()
        del written[name]
    for name in names[30:60]:
        written[name] = [
            fact.replace("is kept", "is now changed and is kept") for fact in written[name]
        ]
        kind = name.split("-", 1)[1]
        (folder / name).write_bytes(KINDS[kind](written[name]))
    new = make_folder(folder / "new", files=16)
    written |= {f"new/{name}": facts for name, facts in new.items()}
    for name in BROKEN:
        (folder / "new" / "broken" / name).unlink()
    changed = index(store, folder)
    assert changed.changes.removed >= 30
    assert changed.changes.updated >= 30
    check(store, written)
    fresh = tmp_path / "fresh"
    index(fresh, folder)
    assert sorted(facts_in(store)) == sorted(facts_in(fresh))
