"""`doctor` prints the state of a collection as tables or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from langchain_chroma import Chroma
from typer.testing import CliRunner
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift.cli import app

pytestmark = pytest.mark.slow

EMBEDDINGS = "unit_tests.word_embeddings:WordEmbeddings"


@pytest.fixture
def folder(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "store"
    store = Chroma("facts", WordEmbeddings(), persist_directory=str(path))
    store.add_texts([*texts, *texts[:5]])
    return path


def doctor(folder: Path, *more: str):
    return CliRunner().invoke(app, ["doctor", "--store", str(folder), *more])


def test_tables_and_json_say_the_same(folder: Path) -> None:
    result = doctor(folder, "--embeddings", EMBEDDINGS, "--queries", "12")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    for part in ("rows 65", "different texts 60", "7.7%, at most 2 of a text", "advice: SIFT will"):
        assert part in shown
    result = doctor(folder, "--embeddings", EMBEDDINGS, "--queries", "12", "--json")
    found = json.loads(result.stdout)
    assert (found["rows"]["rows"], found["rows"]["texts"]) == (65, 60)
    assert found["advice"] in " ".join(shown.split())
    assert found["calibration"]["settings"]["retrieval"]["k"] == 10


def test_a_collection_that_names_no_embeddings_is_examined_without(folder: Path) -> None:
    result = doctor(folder, "--json")
    assert result.exit_code == 0, result.output
    assert "names no embeddings" in result.stderr
    found = json.loads(result.stdout)
    assert (found["calibration"], found["lengths"]["unit"]) == (None, "characters")
    assert "needs embeddings" in found["advice"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sample", "0"), "sample must be"),
        (("--collection", "none"), "no collection 'none'"),
        (("--embeddings", "no_such_module:Name"), "no_such_module"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, more: tuple[str, str], message: str) -> None:
    result = doctor(folder, *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
