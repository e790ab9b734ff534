"""Embeddings that fail, such as those of a server that is down, are an error in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings
from typer.testing import CliRunner
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift.cli import app

pytestmark = pytest.mark.slow


class Down(Embeddings):
    """Embeddings whose server is down."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise ConnectionError(f"no server for {len(texts)} texts")

    def embed_query(self, text: str) -> list[float]:
        raise ConnectionError(f"no server for {len(text)} characters")


class Wrong(WordEmbeddings):
    """Embeddings that return no vector of a query."""

    def embed_query(self, text: str) -> Any:
        return None if text else text


@pytest.fixture
def folder(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a collection with embeddings that work, and name modules of others."""
    module: Any = ModuleType("failing")
    module.down, module.wrong = Down(), Wrong()
    monkeypatch.setitem(sys.modules, "failing", module)
    path = tmp_path / "store"
    Chroma("facts", WordEmbeddings(), persist_directory=str(path)).add_texts(texts)
    (tmp_path / "queries.jsonl").write_text('{"question": "q", "answers": ["a"]}\n' * 10)
    return path


COMMANDS = {
    "explain": ("explain", "rice"),
    "doctor": ("doctor",),
    "calibrate": ("calibrate", "--out", "s.json"),
    "calibrate with queries": ("calibrate", "--out", "s.json", "--queries", "queries.jsonl"),
    "repair": ("repair",),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_embeddings_that_fail_are_one_line(
    command: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    more = ["--store", str(folder), "--embeddings", "failing:down"]
    result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 2, result.output
    assert "error: the embeddings failed: ConnectionError: no server for" in result.stderr
    assert not (folder.parent / "s.json").exists()


@pytest.mark.parametrize("command", [COMMANDS["explain"], COMMANDS["doctor"]])
def test_a_query_without_a_vector_is_one_line(command: tuple[str, ...], folder: Path) -> None:
    more = ["--store", str(folder), "--embeddings", "failing:wrong"]
    result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 2, result.output
    assert "error: the vectors of a query must" in result.stderr
