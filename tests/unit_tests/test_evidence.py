"""The page of evidence says what its results say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "evidence"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the sdist has no examples")
def test_its_tables_are_those_of_the_committed_file() -> None:
    spec = importlib.util.spec_from_file_location("summarize", FOLDER / "summarize.py")
    assert spec is not None
    assert spec.loader is not None
    summarize = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(summarize)
    found = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    tables = summarize.tables(found)
    assert len(tables) == 8
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in page, name
