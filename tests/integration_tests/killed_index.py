"""Kill `index` at random moments; the next run must reach the state of one that was not killed.

Run as: killed_index.py FOLDER KILLS. It prints, as JSON, how many runs were killed before their
end, and after how many of them the next run reached the state.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chromadb
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_sift.indexing.file_runs import FileSettings, index_files
from langchain_sift.indexing.token_lengths import ChunkLengths

FILES = 60


class Embeddings(DeterministicFakeEmbedding):
    """Embeddings that take a moment, so that kills come while texts are embedded, too."""

    size: int = 8

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0.02)
        return super().embed_documents(texts)


def write(folder: Path, version: int) -> None:
    """Write the files of a version: some are changed, some new, some gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in range(version * 15, FILES + version * 15):
        changed = version if number % 3 == 0 else 0
        facts = [f"Fact {number}.{n} of version {changed}." for n in range(10)]
        (folder / f"{number}.txt").write_text("\n\n".join(facts))


def index(store: Path, folder: Path) -> None:
    settings = FileSettings(lengths=ChunkLengths(characters=30))
    index_files(str(store), "documents", [folder], "own:E", lambda _: Embeddings(), settings)


def dump(store: Path, out: Path) -> None:
    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    page = collection.get(include=["documents", "metadatas", "embeddings"])
    rows = zip(page["ids"], page["documents"], page["metadatas"], page["embeddings"], strict=True)
    known = chromadb.PersistentClient(str(store)).get_collection(
        f"langchain-sift-files-{collection.id}"
    )
    found = collection.query(query_embeddings=[[1.0] * 8], n_results=collection.count())
    out.write_text(
        json.dumps(
            {
                "rows": sorted(
                    [id_, text, meta, vector.tolist()] for id_, text, meta, vector in rows
                ),
                "files": sorted(known.get()["documents"]),
                "found": sorted(found["ids"][0]),
            }
        )
    )


def in_child(work: Callable[[], None]) -> int:
    """Run in a process of its own: this one opens no store, and has no threads."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - reported by the exit code
            print(repr(error), file=sys.stderr)  # noqa: T201
            os._exit(1)
        os._exit(0)
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state(store: Path, out: Path) -> dict[str, object]:
    if wait(in_child(lambda: dump(store, out))) != 0:
        return {}
    read: dict[str, object] = json.loads(out.read_text())
    return read


def main(folder: Path, kills: int) -> None:
    rng = random.Random(0)
    files, base, out = folder / "files", folder / "base", folder / "rows.json"
    write(files, 0)
    wait(in_child(lambda: index(base, files)))
    write(files, 1)
    shutil.copytree(base, folder / "whole")
    begin = time.monotonic()
    wait(in_child(lambda: index(folder / "whole", files)))
    seconds = time.monotonic() - begin
    expected = state(folder / "whole", out)
    killed = same = 0
    for number in range(kills):
        store = folder / f"store-{number}"
        shutil.copytree(base, store)
        child = in_child(lambda store=store: index(store, files))  # type: ignore[misc]
        time.sleep(rng.uniform(0.05, 0.95) * seconds)
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        wait(in_child(lambda store=store: index(store, files)))  # type: ignore[misc]
        same += state(store, out) == expected
        shutil.rmtree(store)
    print(json.dumps({"killed": killed, "same": same, "rows": len(expected["rows"])}))  # type: ignore[arg-type]  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
