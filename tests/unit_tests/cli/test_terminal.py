"""A terminal shows the texts of users, documents and models as they are."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from langchain_sift.cli import app
from langchain_sift.cli.terminal import Terminal, to_json, without_controls
from langchain_sift.indexing import index_documents

_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # Unicode's annex 9


def is_control(char: str) -> bool:
    """Return True for a character that acts on a terminal."""
    return (unicodedata.category(char) == "Cc" and char not in "\n\t") or unicodedata.bidirectional(
        char
    ) in _TURNING


EVERY = "".join(filter(is_control, map(chr, range(sys.maxunicode + 1))))


def test_control_characters_are_replaced_and_no_other() -> None:
    assert len(EVERY) == 63 + 9
    rest = "".join(char for char in map(chr, range(0xD800)) if not is_control(char))
    assert without_controls(rest) == rest
    assert without_controls(EVERY) == "�" * len(EVERY)
    assert without_controls("a\r\nb\tc") == "a\nb\tc"


@given(st.dictionaries(st.text(), st.text() | st.sampled_from(EVERY)))
def test_json_is_equal_and_has_no_control_characters(value: dict[str, str]) -> None:
    line = to_json(value)
    assert json.loads(line) == value
    assert not any(map(is_control, line))
    assert "\n" not in line


def test_nothing_in_a_text_is_interpreted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = f"[/a] [bold]b[/] :cat: {EVERY} end"
    shown = f"[/a] [bold]b[/] :cat: {'�' * len(EVERY)} end"
    terminal = Terminal()
    terminal.print(text)
    terminal.print(text, soft_wrap=True)
    # A text of Rich's has lost some control characters already.
    terminal.print(Text.assemble(("error:", "bold red"), " [/a] \x1b]0;x\x9b2J\u202e end"))
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    terminal.print(table)
    lines = capsys.readouterr().out
    assert not any(map(is_control, lines))
    assert lines.count(shown) == 6
    assert "error: [/a] �]0;x�2J� end" in lines


def test_explain_shows_documents_without_their_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    texts = [f"\x1b]0;title\x07 {n} \x9b2J \u202e [/a] end" for n in range(12)]
    embeddings = DeterministicFakeEmbedding(size=8)
    store = index_documents([Document(text) for text in texts], embeddings, tmp_path / "store")
    store._client.close()
    (tmp_path / "own_embeddings.py").write_text(
        "from langchain_core.embeddings import DeterministicFakeEmbedding\n"
        "fake = DeterministicFakeEmbedding(size=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["explain", "7", "--store", str(tmp_path / "store")]
    command += ["--embeddings", "own_embeddings:fake", "--k", "3"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert not any(map(is_control, shown.output))
    assert shown.stdout.count("�2J � [/a] end") == 6
    printed = CliRunner().invoke(app, [*command, "--json"]).stdout
    assert not any(map(is_control, printed))
    assert {choice["text"] for choice in json.loads(printed)["sift"]} <= {*texts}
