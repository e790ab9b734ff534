"""`index` brings a collection to the state of files, and its last line is JSON."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import chromadb
import pytest
from fpdf import FPDF
from langchain_community.document_loaders import TextLoader
from langchain_core.documents import Document
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
        "added": 8,
        "updated": 0,
        "removed": 0,
        "unchanged": 0,
        "unreadable": 0,
    }
    assert "files of other formats skipped: 1 .png" in result.stderr
    assert "7 files read: 8 chunks added, 0 updated, 0 removed, 0 unchanged" in result.stderr

    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    stored = collection.get()
    rows = list(zip(stored["documents"], stored["metadatas"], strict=True))
    river = "A river carries sand."
    lines = {"start_index": 0, "line": 1}
    expected = [
        ("Rice grows in wet fields.", {"source": "a.pdf", "page": 1, "start_index": 0}),
        ("Wheat grows in dry ones.", {"source": "a.pdf", "page": 2, "start_index": 0}),
        (river, {"source": "b.txt", **lines}),
        (river, {"source": "sub/f.jsonl.gz:1", "lang": "en", **lines}),
        ("# Maps\n\nThey show roads.", {"source": "c.md", "headings": "Maps", **lines}),
        ("A comet has a tail.", {"source": "d.html", "start_index": 0}),
        ("Bread is baked.", {"source": "e.csv:1", "row": 1, "year": 1999, "start_index": 0}),
        ("A river carries silt.", {"source": "sub/g.jsonl:1", "lang": "en", **lines}),
    ]
    assert rows == expected

    with mock.patch("langchain_sift.indexing.named_objects.load_embeddings") as loading:
        again = last_line(run(*command[:3]))
    loading.assert_not_called()
    assert (again["added"], again["unchanged"]) == (0, 8)
    (folder / "h.txt").write_text("One more fact.", encoding="utf-8")
    (folder / "b.txt").write_text("A river carries stones.\n", encoding="utf-8")
    (folder / "d.html").unlink()
    kept = last_line(run(*command[:3], "--keep-removed"))
    assert (kept["added"], kept["removed"], collection.count()) == (2, 0, 10)
    (folder / "c.md").write_text("# Maps\n\nThey show rivers.\n", encoding="utf-8")
    more = last_line(run(*command[:3]))
    numbers = [more[key] for key in ("added", "updated", "removed", "unchanged")]
    assert numbers == [0, 1, 2, 7]
    texts = sorted(collection.get()["documents"])
    assert len(texts) == 8
    assert {"A river carries stones.", "One more fact."} < {*texts}
    assert not any("roads" in text or "comet" in text for text in texts)


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
    assert message in error_of(run(*command, "--strict"))
    assert not (tmp_path / "store").exists()
    result = run(*command)
    assert result.exit_code == 1
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["files"], printed["added"], printed["unreadable"]) == (7, 8, 1)
    assert f"skipped: {folder}" in result.stderr
    assert message in result.stderr
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("documents")
    sources = [metadata["source"] for metadata in collection.get()["metadatas"]]
    assert not any(source.startswith(name) for source in sources)


def test_files_that_cannot_be_read_are_named_beside_an_error_of_the_embeddings(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    files, store = tmp_path / "files", tmp_path / "store"
    files.mkdir()
    (files / "a.txt").write_text("Rice grows.")
    (files / "b.txt").write_bytes(b"\xff")
    result = run(files, "--store", store, "--embeddings", tiny_model_path)
    assert "texts must be at least two" in error_of(result)
    assert f"skipped: {files / 'b.txt'}, line 1: not UTF-8" in result.stderr
    assert not store.exists()


def test_the_rows_of_a_file_that_cannot_be_read_now_stay(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    last_line(run(*command))
    (folder / "b.txt").write_bytes(b"\xff")
    result = run(*command)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["removed"] == 0
    (folder / "b.txt").unlink()
    assert last_line(run(*command))["removed"] == 1


def test_a_folder_or_file_that_is_gone_is_removed_and_an_unknown_one_is_an_error(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = ("--store", tmp_path / "store", "--embeddings", own_embeddings)
    last_line(run(folder, *command))
    (folder / "b.txt").unlink()
    gone = last_line(run(folder / "b.txt", *command))
    assert (gone["removed"], gone["unchanged"]) == (1, 0)
    shutil.rmtree(folder / "sub")
    message = error_of(run(folder / "sub", *command))
    assert "none of its indexed files is there now (files: 2), and 2 rows would be del" in message
    assert last_line(run(folder / "sub", *command, "--keep-removed"))["removed"] == 0
    assert last_line(run(folder / "sub", *command, "--allow-empty"))["removed"] == 2
    assert "no such file or folder" in error_of(run(folder / "sub", *command))
    lone = tmp_path / "disk" / "lone.txt"
    lone.parent.mkdir()
    lone.write_text("a text")
    assert last_line(run(lone, *command))["added"] == 1
    lone.unlink()
    for _ in range(2):  # an empty folder, and then none
        assert "files: 1), and 1 rows would be deleted" in error_of(run(lone, *command))
        shutil.rmtree(lone.parent, ignore_errors=True)
    assert last_line(run(lone, *command, "--allow-empty"))["removed"] == 1
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("documents")
    assert collection.count() == 5


@pytest.mark.slow
@pytest.mark.parametrize("others", [(), ("lost+found.txt",)])
def test_a_folder_that_lost_all_its_files_keeps_its_rows_unless_allowed(
    others: tuple[str, ...], folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    last_line(run(*command))
    folder.rename(tmp_path / "elsewhere")
    for there in (False, True):
        if there:  # an empty folder to mount a disk on, or another disk
            folder.mkdir()
            for name in others:
                (folder / name).write_text("another text")
        message = error_of(run(*command))
        assert "files: 7), and 8 rows would be deleted" in message
        assert "--allow-empty" in message
    assert count(tmp_path / "store") == 8
    changed = last_line(run(*command, "--allow-empty"))
    assert (changed["added"], changed["removed"]) == (len(others), 8)


@pytest.mark.slow
def test_a_disk_within_a_folder_that_is_not_mounted_keeps_its_rows_unless_allowed(
    folder: Path, own_embeddings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    disk = tmp_path / "disk"
    with monkeypatch.context() as mounted:
        mounted.setattr(os.path, "ismount", lambda path: str(path) == str(disk.resolve()))
        (folder / "sub").rename(disk)
        (folder / "sub").symlink_to(disk)
        last_line(run(*command))
        (disk / "g.jsonl").rename(disk / "h.jsonl")
        changed = last_line(run(*command))  # a file under a new name is no deletion
        assert (changed["added"], changed["removed"]) == (1, 1)
    disk.rename(tmp_path / "elsewhere")
    disk.mkdir()
    message = error_of(run(*command))
    assert f"{disk}: none of its indexed files is there now (files: 2), and 2 rows" in message
    assert last_line(run(*command, "--allow-empty"))["removed"] == 2


@pytest.mark.slow
def test_files_that_are_renamed_or_deleted_on_purpose_need_no_option(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    last_line(run(*command))
    for file in (folder / "sub").iterdir():
        file.unlink()
    assert last_line(run(*command))["removed"] == 2
    for file in [*folder.glob("*.*")]:
        file.rename(folder / f"new-{file.name}")
    changed = last_line(run(*command))
    assert (changed["added"], changed["removed"]) == (6, 6)


@pytest.mark.slow
def test_the_rows_of_files_that_cannot_be_reached_stay(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    last_line(run(*command))
    (folder / "sub").rename(tmp_path / "moved")
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to("b.txt")
    for target in ("sub", "nothing"):
        (folder / "sub").unlink(missing_ok=True)
        (folder / "sub").symlink_to(folder / target)
        for paths in ((folder,), (folder / "sub", folder / "b.txt")):
            result = run(*paths, *command[1:])
            assert result.exit_code == 1
            printed = json.loads(result.stdout.splitlines()[-1])
            assert (printed["removed"], printed["unreadable"]) == (0, 2)
            assert f"skipped: {folder / 'b.txt'}: cannot be read: Too many" in result.stderr
    (folder / "sub").unlink()
    assert count(tmp_path / "store") == 8
    result = run(*command)
    assert json.loads(result.stdout.splitlines()[-1])["removed"] == 2


@pytest.mark.slow
def test_attachments_are_indexed_and_listed(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    message = EmailMessage()
    message["Subject"] = "Facts"
    message.set_content("See below.")
    for name, content in (("a.txt", b"rice"), ("b.txt", b"\xff"), ("c.png", b"x")):
        message.add_attachment(content, "application", "octet-stream", filename=name)
    (folder / "sub" / "m.eml").write_bytes(message.as_bytes())
    command = (folder / "sub", "--store", tmp_path / "store", "--embeddings", own_embeddings)
    result = run(*command)
    assert result.exit_code == 1
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["files"], printed["added"], printed["unreadable"]) == (3, 4, 1)
    assert "warning: m.eml: attachments that are not read: c.png" in result.stderr
    assert "skipped: m.eml/b.txt, line 1: not UTF-8" in result.stderr
    assert "m.eml/b.txt, line 1: not UTF-8" in error_of(run(*command, "--strict"))
    # Rows stay while an attachment cannot be read: it may have been read before.
    broken = message.as_bytes().replace(b'filename="a.txt"', b'filename="a.png"')
    (folder / "sub" / "m.eml").write_bytes(broken)
    assert json.loads(run(*command).stdout.splitlines()[-1])["removed"] == 0
    message.clear_content()
    message.set_content("Nothing below.")
    (folder / "sub" / "m.eml").write_bytes(message.as_bytes())
    changed = last_line(run(*command))
    assert (changed["updated"], changed["removed"], changed["unchanged"]) == (1, 2, 2)


def test_the_same_files_belong_to_several_owners(
    folder: Path, own_embeddings: str, tmp_path: Path
) -> None:
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    for tenant in "ab":
        assert last_line(run(*command, "--origin", f"tenant={tenant}"))["added"] == 8
    both = ("--origin", "tenant=a", "--origin", "tenant=b")
    assert "one --origin" in error_of(run(*command, *both))
    (folder / "c.md").unlink()
    changed = last_line(run(*command, "--origin", "tenant=a"))
    assert (changed["removed"], changed["unchanged"]) == (1, 7)
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("documents")
    for tenant, count in (("a", 7), ("b", 8)):
        assert len(collection.get(where={"tenant": tenant})["ids"]) == count


def test_a_warning_tells_how_much_of_the_text_is_not_embedded(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    facts = " ".join(f"fact {number}" for number in range(600))
    (tmp_path / "a.txt").write_text(f"{facts}\n\nA short one.")
    command = (tmp_path / "a.txt", "--store", tmp_path / "store", "--embeddings", tiny_model_path)
    cut = run(*command, "--chunk-size", 5295)
    assert last_line(cut)["added"] == 2
    said = " ".join(cut.stderr.split())
    assert re.search(r"search; give --chunk-tokens \d+ in place of --chunk-size", said)
    assert "warning: 1 of 2 new chunks are longer than the" in said
    assert "of their text is not found by a search" in said
    (tmp_path / "a.txt").write_text(f"{facts}\n\nAnother short one.")
    again = run(*command, "--chunk-size", 5295)  # chunks with a row are not measured again
    assert last_line(again)["updated"] == 1
    assert "warning" not in again.stderr
    whole = run(*command, "--collection", "whole")
    assert last_line(whole)["added"] > 2
    assert "warning" not in whole.stderr
    longer = run(*command, "--collection", "longer", "--chunk-tokens", 1000)
    advice = re.search(r"a search; give --chunk-tokens (\d+)", " ".join(longer.stderr.split()))
    assert advice is not None
    assert (
        "warning" not in run(*command, "--collection", "fits", "--chunk-tokens", advice[1]).stderr
    )


def test_a_loader_of_langchain_reads_other_files(
    folder: Path, own_embeddings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("own_loaders")
    module.picture = lambda path: [Document(f"a picture: {Path(path).name}", metadata={"by": "me"})]
    module.Text = TextLoader
    monkeypatch.setitem(sys.modules, "own_loaders", module)
    command = (folder, "--store", tmp_path / "store", "--embeddings", own_embeddings)
    loaders = ("--loader", ".png=own_loaders:picture", "--loader", ".md=own_loaders:Text")
    assert last_line(run(*command, *loaders))["added"] == 9
    collection = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("documents")
    (picture,) = collection.get(where={"by": "me"})["metadatas"]
    assert picture["source"] == "picture.png"
    (text,) = collection.get(where={"source": str(folder / "c.md")})["documents"]
    assert text == "# Maps\n\nThey show roads."
    assert "must be module:NAME or .ENDING=" in error_of(run(*command, "--loader", "png=x:y"))

    # An option that is forgotten is no deletion.
    (folder / "picture.png").rename(folder / ".picture.png")
    assert last_line(run(*command, *loaders, "--all-files"))["added"] == 1
    for forgotten, reason in (
        (loaders, "left out without --all-files"),
        (("--all-files",), "not a supported format without its --loader"),
    ):
        result = run(*command, *forgotten)
        assert result.exit_code == 1
        assert f"skipped: {folder / '.picture.png'}: {reason}; its rows stay" in result.stderr
        assert collection.get(where={"by": "me"})["ids"]
    assert "not a supported format" in error_of(run(folder / ".picture.png", *command[1:]))
    (folder / ".gitignore").write_text("*.png\n")
    assert last_line(run(*command, "--gitignore"))["removed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("",), "a path is empty: name a file or a folder"),
        (("files/sub", "--store", ""), "the store is empty"),
        (("files/sub", "--chunk-size", "0"), "chunk size must be an integer of at least 1"),
        (("files/sub", "--chunk-overlap", "2000"), "below the chunk size of 2000"),
        (("files/sub", "--chunk-size", "9", "--chunk-tokens", "9"), "give either --chunk-tokens"),
        (("files/sub", "--chunk-tokens", "9"), "show no tokenizer to count"),
        (("files/picture.png",), "picture.png: not a supported format"),
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
from langchain_community.document_loaders import TextLoader
from langchain_core.documents import Document
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
    # The second batch takes longer than the test.
    seconds = "600 if len(open('batches').readlines()) > 1 else 0"
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", seconds))
    command = [sys.executable, "-m", "langchain_sift", "index", "facts.jsonl", "--store", "store"]
    command += ["--embeddings", "slow:made"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    settings: Any = {"cwd": tmp_path, "env": environment, "text": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, **settings) as process:
        deadline = time.monotonic() + 600
        while len(lines_of(tmp_path / "batches")) < 2:  # the first batch is written
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "interrupted; documents already written are kept" in " ".join(said.split())
    assert "Traceback" not in said
    present = count(tmp_path / "store")
    assert 0 < present < 1000

    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "0"))
    done = subprocess.run(command, capture_output=True, check=True, **settings)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert (printed["added"], printed["unchanged"]) == (1000 - present, present)
    assert count(tmp_path / "store") == 1000


@pytest.mark.slow
def test_a_first_run_excludes_others_and_leaves_a_free_folder_if_it_is_killed(
    tmp_path: Path, own_embeddings: str
) -> None:
    (tmp_path / "fact.txt").write_text("Rice grows.")
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "600"))
    command = [sys.executable, "-m", "langchain_sift", "index", "fact.txt", "--store", "store"]
    settings: Any = {"cwd": tmp_path, "stderr": subprocess.DEVNULL}
    again = (tmp_path / "fact.txt", "--store", tmp_path / "store", "--embeddings", own_embeddings)
    with subprocess.Popen([*command, "--embeddings", "slow:made"], **settings) as process:
        deadline = time.monotonic() + 600
        while not (tmp_path / "batches").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = run(*again)
        process.kill()
    assert "is open in another process" in error_of(refused)
    assert last_line(run(*again))["added"] == 1


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def count(store: Path) -> int:
    return chromadb.PersistentClient(str(store)).get_collection("documents").count()
