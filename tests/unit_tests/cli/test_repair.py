"""`repair` names the embeddings of a collection again, or leaves it as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import chromadb
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from typer.testing import CliRunner, Result

from langchain_sift.cli import app
from langchain_sift.stores.locking import locked


@pytest.fixture
def store(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Index texts with embeddings of a module, and overwrite the metadata of their collection."""
    module: Any = ModuleType("own_embeddings")
    module.made = DeterministicFakeEmbedding(size=16)
    module.small = DeterministicFakeEmbedding(size=8)
    monkeypatch.setitem(sys.modules, "own_embeddings", module)

    files = tmp_path / "files.jsonl"
    files.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    where = tmp_path / "store"
    assert (
        run("index", files, "--store", where, "--embeddings", "own_embeddings:made").exit_code == 0
    )
    collection = chromadb.PersistentClient(str(where)).get_collection("documents")
    collection.modify(metadata={"owner": "somebody"})
    return where


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_a_collection_is_read_again_after_a_repair(store: Path) -> None:
    explain = ("explain", "rice", "--store", store)
    assert "store the name with `langchain-sift repair`" in error_of(run(*explain))
    done = run("repair", "--store", store, "--embeddings", "own_embeddings:made", "--rows", 20)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["store"] == str(store)
    assert (printed["collection"], printed["rows"]) == ("documents", 20)
    assert printed["lowest_cosine"] == pytest.approx(1.0)
    wrong = error_of(run(*explain, "--embeddings", "own_embeddings:small"))
    assert "holds embeddings of 'own_embeddings:made'" in wrong
    assert run(*explain, "--embeddings", "own_embeddings:made").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--embeddings", "own_embeddings:small"), "8 dimensions, and the stored vectors have 16"),
        (("--embeddings", "own_embeddings:none"), "own_embeddings"),
        (("--embeddings", "own_embeddings:made", "--rows", "1"), "rows must be an integer"),
        (("--embeddings", "own_embeddings:made", "--collection", "no"), "no collection 'no'"),
        (("--embeddings", "own_embeddings:made", "--store-token", "x"), "needs neither token"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    store: Path, more: tuple[str, ...], message: str
) -> None:
    assert message in error_of(run("repair", "--store", store, *more))
    collection = chromadb.PersistentClient(str(store)).get_collection("documents")
    assert collection.metadata == {"owner": "somebody"}


def test_a_store_that_is_open_elsewhere_is_not_repaired(store: Path) -> None:
    with locked(store, exclusive=True):
        message = error_of(run("repair", "--store", store, "--embeddings", "own_embeddings:made"))
    assert "open in another process" in message
