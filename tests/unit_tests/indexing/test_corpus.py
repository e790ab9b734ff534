"""A user's files are read as they are, or refused by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.corpus import read_corpus


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_rows_become_documents_with_ids_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(lines({"id": "a", "text": "one", "year": 3, "tags": []}, {"text": "two"}))
    documents = read_corpus(file)
    assert [document.page_content for document in documents] == ["one", "two"]
    assert [document.id for document in documents] == ["a", "corpus.jsonl:2"]
    assert [document.metadata for document in documents] == [{"year": 3}, {}]


def test_what_has_no_text_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": ""}, {"text": "one"}, {"text": " \n"}))
    (tmp_path / "b.txt").write_text("")
    assert [document.id for document in read_corpus(tmp_path)] == ["a.jsonl:2"]


def test_what_chroma_cannot_keep_is_left_out_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        r'{"id": 0, "text": "a \ud83d", "#k": 1, "$k": 2, "": 3, "chroma:document": "z", '
        r'"huge": 9223372036854775808, "worst": NaN, "k\ud83d": "\ud83d", "none": null}'
    )
    (document,) = read_corpus(tmp_path)
    half = "\N{REPLACEMENT CHARACTER}"
    assert (document.id, document.page_content) == ("0", f"a {half}")
    assert document.metadata == {"huge": "9223372036854775808", f"k{half}": half}


@pytest.mark.parametrize("name", ["q.csv", "q.json", "q.html"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("question,answer\nWho?,I\n")
    with pytest.raises(CorpusError, match=rf"{name}: not a kind .*\.jsonl, \.jsonl\.gz, \.txt"):
        read_corpus(tmp_path / name)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "note.md").write_text("# A note\nwith two lines", encoding="utf-8")
    (tmp_path / "b.txt").write_text("bee\n", encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines({"text": "first"})))
    (tmp_path / "ignored.csv").write_bytes(b"\xff")
    documents = read_corpus(tmp_path)
    assert [document.id for document in documents] == ["a.jsonl.gz:1", "b.txt", "sub/note.md"]
    assert documents[2].page_content == "# A note\nwith two lines"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", lines({"text": "x"}) + b'{"text": "\xff"}\n', "line 2: not UTF-8 at byte 11"),
        ("c.txt", b"fine\nfine\n\xe9t\xe9", "line 3: not UTF-8"),
        ("c.jsonl", lines({"text": "x"}) + b"\n{oops\n", "line 3: not JSON"),
        ("c.jsonl", b"[1]\n", "line 1: not an object"),
        ("c.jsonl", lines({"txt": "x"}), 'line 1: .*"text"'),
        ("c.jsonl", lines({"text": 3}), 'line 1: .*"text"'),
        ("c.jsonl", lines({"id": 1, "text": "x"}, {"id": 1, "text": "y"}), "line 2: the id '1'"),
        ("c.jsonl.gz", b"not gzip", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=f"{name}.*{message}"):
        read_corpus(tmp_path / name)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"\.jsonl"):
        read_corpus(tmp_path)
