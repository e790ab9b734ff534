"""`index` writes files into a collection, each text once, and its last line is JSON."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import chromadb
import pytest
from fpdf import FPDF
from langchain_core.embeddings import DeterministicFakeEmbedding
from typer.testing import CliRunner, Result

from langchain_sift.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["index", *map(str, arguments)])


def last_line(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return printed


def error_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    message = " ".join(result.stderr.split())
    assert "error:" in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a file of each format, with one text in two of them, and a file of another format."""
    made = tmp_path / "files"
    (made / "sub").mkdir(parents=True)
    pages = FPDF()
    for text in ("Rice grows in wet fields.", "Wheat grows in dry ones."):
        pages.add_page()
        pages.set_font("helvetica", size=12)
        pages.multi_cell(0, text=text)
    pages.output(str(made / "a.pdf"))
    (made / "b.txt").write_text("A river carries sand.\n", encoding="utf-8")
    (made / "c.md").write_text("# Maps\n\nThey show roads.\n", encoding="utf-8")
    (made / "d.html").write_text("<p>A comet has a <b>tail</b>.</p>", encoding="utf-8")
    (made / "e.csv").write_text("text,year\nBread is baked.,1999\n", encoding="utf-8")
    line = json.dumps({"text": "A river carries sand.", "lang": "en"}) + "\n"
    (made / "sub" / "f.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (made / "sub" / "g.jsonl").write_text(line.replace("sand", "silt"), encoding="utf-8")
    (made / "picture.png").write_bytes(b"\x89PNG")
    return made


def test_files_of_every_format_are_indexed_once(
    folder: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = (folder, "--store", store, "--embeddings", tiny_model_path)
    result = run(*command)
    assert last_line(result) == {
        "store": str(store),
        "collection": "documents",
        "files": 7,
        "documents": 8,
        "added": 7,
        "present": 0,
    }
    assert "files of other formats skipped: 1" in result.stderr

    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    stored = collection.get()
    rows = dict(zip(stored["documents"], stored["metadatas"], strict=True))
    assert rows == {
        "Rice grows in wet fields.": {"source": "a.pdf", "page": 1},
        "Wheat grows in dry ones.": {"source": "a.pdf", "page": 2},
        "A river carries sand.": {"source": "b.txt"},
        "# Maps\n\nThey show roads.": {"source": "c.md"},
        "A comet has a tail.": {"source": "d.html"},
        "Bread is baked.": {"source": "e.csv:1", "row": 1, "year": "1999"},
        "A river carries silt.": {"source": "sub/g.jsonl:1", "line": 1, "lang": "en"},
    }
    ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in stored["documents"]]
    assert stored["ids"] == ids

    again = last_line(run(*command[:3]))
    assert (again["added"], again["present"]) == (0, 7)
    (folder / "h.txt").write_text("One more fact.", encoding="utf-8")
    more = last_line(run(*command[:3]))
    assert (more["added"], more["present"]) == (1, 7)


def test_an_indexed_collection_can_be_explained(
    folder: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    last_line(run(folder, "--store", tmp_path / "store", "--embeddings", tiny_model_path))
    command = ["explain", "Where does rice grow?", "--store", str(tmp_path / "store"), "--json"]
    result = CliRunner().invoke(app, [*command, "--k", "3"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["sift"]) == 3


def test_long_texts_are_split(tmp_path: Path, own_embeddings: str, texts: list[str]) -> None:
    text = " ".join(texts)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    sizes = ("--chunk-size", "200", "--chunk-overlap", "50")
    command = (tmp_path / "a.txt", "--store", tmp_path / "store", "--embeddings", own_embeddings)
    printed = last_line(run(*command, "--collection", "parts", *sizes))
    assert (printed["collection"], printed["files"], printed["documents"]) == ("parts", 1, 1)
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("parts")
    parts = collection.get()["documents"]
    assert printed["added"] == len(parts) > len(text) / 200
    assert max(map(len, parts)) <= 200
    assert all(part in text for part in parts)


@pytest.fixture
def own_embeddings(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of embeddings in a module of the user's."""
    module: Any = ModuleType("own_embeddings")
    module.made = DeterministicFakeEmbedding(size=16)
    monkeypatch.setitem(sys.modules, "own_embeddings", module)
    return "own_embeddings:made"


def test_a_collection_keeps_its_embeddings(
    folder: Path, own_embeddings: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store")
    assert "name the embeddings" in error_of(run(*command))
    assert not (tmp_path / "store").exists()
    last_line(run(*command, "--embeddings", own_embeddings))
    message = error_of(run(*command, "--embeddings", tiny_model_path))
    assert "holds embeddings of 'own_embeddings:made', not of" in message
    assert "name them yourself" in error_of(run(*command))
    assert last_line(run(*command, "--embeddings", own_embeddings))["added"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["explain", "rice"],
        ["calibrate", "--model", "MODEL", "--out", "OUT"],
        ["compare", "--model", "MODEL", "--out", "OUT", "--prompts", "FILES/b.txt"],
        ["serve", "--model", "MODEL"],
    ],
    ids=lambda command: command[0],
)
def test_a_collection_is_read_only_with_the_embeddings_that_filled_it(
    command: list[str], folder: Path, own_embeddings: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    names = {"MODEL": tiny_model_path, "OUT": tmp_path / "out", "FILES/b.txt": folder / "b.txt"}
    arguments = [str(names.get(word, word)) for word in command]
    for collection, embeddings, other in (
        ("hidden", str(tiny_model_path), own_embeddings),
        ("own", own_embeddings, str(tiny_model_path)),
    ):
        store = ("--store", tmp_path / "store", "--collection", collection)
        last_line(run(folder, *store, "--embeddings", embeddings))
        asked = [*arguments, *map(str, store)]
        refused = error_of(CliRunner().invoke(app, [*asked, "--embeddings", other]))
        assert f"holds embeddings of '{embeddings}', not of '{other}'" in refused
    message = error_of(CliRunner().invoke(app, asked))
    assert "holds embeddings of 'own_embeddings:made': name them yourself" in message
    theirs = chromadb.PersistentClient(str(tmp_path / "store")).create_collection("theirs")
    theirs.add(ids=["a"], embeddings=[[1.0] * 16], documents=["rice"])
    message = error_of(CliRunner().invoke(app, [*asked[:-1], "theirs"]))
    assert "names no embeddings: name those that filled it" in message


def test_a_model_that_was_moved_is_recognized_by_its_name(
    folder: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    model, moved, renamed = (tmp_path / name for name in ("a/small", "b/small", "b/other"))
    shutil.copytree(tiny_model_path, model)
    store = ("--store", str(tmp_path / "store"))
    last_line(run(folder, *store, "--embeddings", model))
    asked = ["explain", "rice", *store, "--json"]
    before = CliRunner().invoke(app, asked).stdout
    model.parent.rename(moved.parent)
    assert before.startswith("{")
    assert CliRunner().invoke(app, [*asked, "--embeddings", str(moved)]).stdout == before
    moved.rename(renamed)
    message = error_of(CliRunner().invoke(app, [*asked, "--embeddings", str(renamed)]))
    assert "a model that was moved is recognized by the name of its folder" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"\xff", "bad.txt, line 1: not UTF-8"),
        ("bad.pdf", b"%PDF-", "bad.pdf: not a PDF"),
        ("bad.jsonl", b'{"text": "fine"}\n{', "bad.jsonl, line 2: not JSON"),
        ("bad.csv", b'a\n"', "bad.csv, line 2: not CSV"),
    ],
)
def test_an_unreadable_file_is_an_error_or_is_skipped(  # noqa: PLR0917 - fixtures
    name: str, content: bytes, message: str, folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    (folder / name).write_bytes(content)
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    assert message in error_of(run(*command))
    assert not (tmp_path / "store").exists()
    result = run(*command, "--skip-unreadable")
    assert (last_line(result)["files"], last_line(result)["added"]) == (7, 7)
    assert f"skipped: {folder}" in result.stderr
    assert message in result.stderr
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("documents")
    sources = [metadata["source"] for metadata in collection.get()["metadatas"]]
    assert not any(source.startswith(name) for source in sources)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("files/sub", "--chunk-size", "0"), "chunk size must be an integer of at least 1"),
        (("files/sub", "--chunk-overlap", "2000"), "below the chunk size of 2000"),
        (("files/picture.png",), "picture.png: not a kind that is read"),
        (("files/sub", "--collection", "x"), "cannot be called 'x'"),
        (("files/sub", "--store", "files"), "files holds something else"),
        (("files/sub", "--store", "http://127.0.0.1:9"), "no Chroma server"),
        (("files/sub", "--embeddings", "no_such_module:NAME"), "no_such_module"),
        (("files/sub", "--embeddings", "./no_such_model"), "cannot load the model"),
        (("files/sub", "--embeddings", "json:dumps"), "is no LangChain embeddings"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(  # noqa: PLR0917 - fixtures
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    own_embeddings: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    settings = ("--store", "store", "--embeddings", own_embeddings)
    assert message in error_of(run(*settings, *arguments))
    assert sorted(tmp_path.rglob("*")) == before
    assert folder.is_dir()


SLOW = """
import time
from langchain_core.embeddings import DeterministicFakeEmbedding

class Slow(DeterministicFakeEmbedding):
    size: int = 8

    def embed_documents(self, texts):
        with open("batches", "a") as batches:
            print("begun", file=batches)
        time.sleep(SECONDS)
        return super().embed_documents(texts)

made = Slow()
"""


@pytest.mark.slow
def test_an_interrupted_run_can_be_continued(tmp_path: Path) -> None:
    rows = [{"text": f"fact {number}"} for number in range(1000)]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "0.5"))
    command = [sys.executable, "-m", "langchain_sift", "index", "facts.jsonl", "--store", "store"]
    command += ["--embeddings", "slow:made"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    settings: Any = {"cwd": tmp_path, "env": environment, "text": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, **settings) as process:
        deadline = time.monotonic() + 120
        while len(lines_of(tmp_path / "batches")) < 2:  # the first batch is written
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; documents already written are kept" in " ".join(said.split())
    assert "Traceback" not in said
    present = count(tmp_path / "store")
    assert 0 < present < 1000

    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "0"))
    done = subprocess.run(command, capture_output=True, check=True, **settings)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert (printed["added"], printed["present"]) == (1000 - present, present)
    assert count(tmp_path / "store") == 1000


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def count(store: Path) -> int:
    return chromadb.PersistentClient(str(store)).get_collection("documents").count()
