"""After every run a collection has the rows of a new one, whatever it had before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import index as langchain_index

from langchain_sift.indexing.chroma_collections import open_collection
from langchain_sift.indexing.chunks import Chunking, read_chunks
from langchain_sift.indexing.file_runs import FileSettings, Progress, index_files
from langchain_sift.indexing.folders import find_files
from langchain_sift.indexing.index import index_into
from langchain_sift.indexing.row_ids import text_digest
from langchain_sift.indexing.synchronize import Changes
from langchain_sift.indexing.token_lengths import ChunkLengths

SETTINGS = FileSettings(lengths=ChunkLengths(characters=20))


class Counting(Embeddings):
    """Embeddings that record their texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._inner = DeterministicFakeEmbedding(size=8)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        return self._inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._inner.embed_query(text)


def index(
    store: Path,
    *paths: Path,
    embeddings: Embeddings | None = None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Changes:
    made = embeddings or Counting()
    return index_files(
        str(store),
        "documents",
        paths,
        "own:E",
        lambda _: made,
        SETTINGS,
        Progress(on_warning=on_warning),
    ).changes


def rows(store: Path) -> dict[str, tuple[str, Any, tuple[float, ...]]]:
    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    page = collection.get(include=["documents", "metadatas", "embeddings"])
    vectors = [tuple(np.round(vector, 6).tolist()) for vector in page["embeddings"]]
    values = zip(page["documents"], page["metadatas"], vectors, strict=True)
    return dict(zip(page["ids"], values, strict=True))


def edit(folder: Path, rng: random.Random) -> None:
    """Write, change and delete files; many of their texts are equal."""
    for _ in range(4):
        file = folder / rng.choice(["a.txt", "b.txt", "sub/c.txt", "sub/d.jsonl", "e.csv"])
        file.parent.mkdir(exist_ok=True)
        if file.exists() and rng.random() < 0.3:
            file.unlink()
            continue
        facts = [f"fact {rng.randrange(6)} of all" for _ in range(rng.randint(1, 5))]
        if file.suffix == ".jsonl":
            lines = [f'{{"text": "{fact}", "year": {rng.randrange(3)}}}' for fact in facts]
        elif file.suffix == ".csv":
            lines = ["text,year", *(f"{fact},{rng.randrange(3)}" for fact in facts)]
        else:
            lines = facts
        file.write_text("\n".join(lines))
    (folder / "always.txt").write_text("a fact that stays")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_every_run_reaches_the_state_of_a_new_collection(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    folder, store = tmp_path / "files", tmp_path / "store"
    folder.mkdir()
    for run in range(5):
        edit(folder, rng)
        before = {} if run == 0 else rows(store)
        embeddings = Counting()
        changes = index(store, folder, embeddings=embeddings)
        index(tmp_path / f"new-{run}", folder)
        after = rows(store)
        assert after == rows(tmp_path / f"new-{run}")
        assert changes.unchanged == len(before.keys() & after.keys())
        assert changes.added + changes.updated == len(after.keys() - before.keys())
        assert changes.removed + changes.updated == len(before.keys() - after.keys())
        # Texts that the collection has are not embedded again, and no text is embedded twice.
        known = {text for text, *_ in before.values()}
        assert sorted(embeddings.texts) == sorted({t for t, *_ in after.values()} - known)
        assert index(store, folder) == Changes(0, 0, 0, unchanged=len(after))


@pytest.mark.slow
def test_only_what_is_named_is_brought_up_to_date(tmp_path: Path) -> None:
    for name in ("one/a.txt", "one/sub/b.txt", "other/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"in {name}")
    store = tmp_path / "store"
    assert index(store, tmp_path / "one").added == 2
    assert index(store, tmp_path / "other").added == 1
    theirs = chromadb.PersistentClient(str(store)).get_collection("documents")
    theirs.add(ids=["theirs"], documents=["theirs"], embeddings=[[1.0] * 8])
    shutil.rmtree(tmp_path / "one" / "sub")
    (tmp_path / "one" / "a.txt").write_text("another fact")
    assert index(store, tmp_path / "one" / "a.txt") == Changes(0, 1, 0, 0)
    assert theirs.count() == 4
    assert index(store, tmp_path / "one") == Changes(0, 0, 1, 1)
    texts = sorted(theirs.get()["documents"])
    assert texts == ["another fact", "in other/a.txt", "theirs"]


def test_a_collection_of_an_earlier_version_is_taken_over_without_embedding(
    tmp_path: Path,
) -> None:
    (tmp_path / "files").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "files" / name).write_text("a shared fact")
    texts = ["a shared fact", "a fact of a file elsewhere"]
    earlier = [Document(text, id=text_digest(text), metadata={"source": "x"}) for text in texts]
    index_into(str(tmp_path / "store"), "documents", earlier, "own:E", lambda _: Counting())
    embeddings, warnings = Counting(), list[str]()
    changes = index(
        tmp_path / "store",
        tmp_path / "files",
        embeddings=embeddings,
        on_warning=warnings.append,
    )
    assert changes == Changes(added=0, updated=2, removed=0, unchanged=0)
    assert embeddings.texts == []
    # Nothing tells whether the file elsewhere is gone.
    assert [warning.partition(",")[0] for warning in warnings] == [
        "1 rows of an earlier version stay"
    ]
    found = sorted(
        (text, metadata["source"]) for text, metadata, _ in rows(tmp_path / "store").values()
    )  # type: ignore[index]
    assert found == [
        ("a fact of a file elsewhere", "x"),
        ("a shared fact", "a.txt"),
        ("a shared fact", "b.txt"),
    ]
    assert index(tmp_path / "store", tmp_path / "files") == Changes(0, 0, 0, 2)


def test_the_indexing_api_of_langchain_works_with_the_same_ids(tmp_path: Path) -> None:
    folder, store = tmp_path / "files", tmp_path / "store"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"fact {name}\n\nanother fact of {name}")
    index(store, folder)
    opened = open_collection(str(store), "documents", lambda _: Counting())
    records = InMemoryRecordManager("files")

    def run() -> dict[str, int]:
        chunks = read_chunks(find_files([folder]).files, Chunking(20)).chunks
        return dict(
            langchain_index(
                chunks,
                records,
                opened,
                cleanup="full",
                source_id_key="source",
                key_encoder=lambda document: str(document.id),
            )
        )

    first = rows(store)
    assert run()["num_added"] == 6
    assert rows(store) == first
    (folder / "a.txt").unlink()
    assert run() == {"num_added": 0, "num_updated": 0, "num_skipped": 4, "num_deleted": 2}
    assert len(rows(store)) == 4
    assert index(store, folder) == Changes(0, 0, 0, unchanged=4)
