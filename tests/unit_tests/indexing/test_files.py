"""Files are found in order, and a corpus is read from them or rejected by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from unit_tests.indexing.sample_files import pdf

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.files import read_corpus
from langchain_sift.indexing.folders import files_of, find_files


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_rows_become_documents_with_ids_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(lines({"id": "a", "text": "one", "year": 3, "tags": ["x"]}, {"text": "two"}))
    documents = read_corpus(file)
    assert [document.page_content for document in documents] == ["one", "two"]
    assert [document.id for document in documents] == ["a", "corpus.jsonl:2"]
    assert [document.metadata for document in documents] == [{"year": 3, "tags": ["x"]}, {}]


def test_texts_of_space_alone_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": ""}, {"text": "one"}, {"text": " \n"}))
    (tmp_path / "b.txt").write_text("")
    assert [document.id for document in read_corpus(tmp_path)] == ["a.jsonl:2"]


def test_metadata_that_chroma_cannot_store_are_dropped_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        r'{"id": 0, "text": "a \ud83d", "#k": 1, "$k": 2, "": 3, "chroma:document": "z", '
        r'"huge": 9223372036854775808, "worst": NaN, "k\ud83d": "\ud83d", "none": null}'
    )
    (document,) = read_corpus(tmp_path)
    half = "\N{REPLACEMENT CHARACTER}"
    assert (document.id, document.page_content) == ("0", f"a {half}")
    assert document.metadata == {"huge": "9223372036854775808", f"k{half}": half}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ndjson", '{"text": "Rice, wheat", "n": 1}\n'),
        ("a.json", '[{"text": "Rice, wheat", "n": 1}]'),
        ("a.csv", 'text,n\n"Rice, wheat",1\n'),
        ("a.tsv", "text\tn\nRice, wheat\t1\n"),
    ],
)
def test_a_packed_file_has_the_documents_of_the_file(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    both = [read_corpus(tmp_path / file) for file in (name, f"{name}.gz")]
    for (document,) in both:
        assert (document.page_content, document.metadata) == ("Rice, wheat", {"n": 1})


def test_every_format_is_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    """The ids of lines and texts are the same whatever other formats the folder holds."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines({"text": "first"})))
    (tmp_path / "b.txt").write_bytes(b"bee\r\n")
    (tmp_path / "c.pdf").write_bytes(pdf("Rice grows in wet fields.", "", "Wheat does not."))
    (tmp_path / "d.html").write_text("<p>A comet has<br>a <b>tail</b>.</p>")
    (tmp_path / "e.csv").write_text("text,year,id\nBread is baked.,1999,bread\n,2000,\nRice,,\n")
    (tmp_path / "f.csv").write_text("name,age\nAda,36\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "sub" / "note.md").write_text("# A note\nwith two lines", encoding="utf-8")
    documents = read_corpus(tmp_path)
    assert {document.id: document.page_content for document in documents} == {
        "a.jsonl.gz:1": "first",
        "b.txt": "bee\r\n",
        "c.pdf:1": "Rice grows in wet fields.",
        "c.pdf:3": "Wheat does not.",
        "d.html": "A comet has\na tail.",
        "bread": "Bread is baked.",
        "e.csv:3": "Rice",
        "f.csv:1": "name: Ada\nage: 36",
        "sub/note.md": "# A note\nwith two lines",
    }
    assert [document.id for document in documents][-1] == "sub/note.md"
    metadata = {document.id: document.metadata for document in documents}
    assert metadata.pop("bread") == {"year": 1999}
    assert list(metadata.values()) == [{}] * len(metadata)


@pytest.mark.parametrize("name", ["q.doc", "q.zip", "q.png"])
def test_a_file_of_another_format_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("question,answer\nWho?,I\n")
    with pytest.raises(CorpusError, match=rf"{name}: not a supported format.*\.pdf, \.jsonl, "):
        read_corpus(tmp_path / name)


def test_a_single_file_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("bee")
    assert [document.id for document in read_corpus(tmp_path)] == ["a.txt"]
    assert [file.name for file in files_of(tmp_path)] == ["a.txt"]
    assert [file.name for file in find_files([tmp_path]).files] == ["sub/a.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", lines({"text": "x"}) + b'{"text": "\xff"}\n', "line 2: not UTF-8 at byte 11"),
        ("c.txt", b"fine\nfine\n\xe9t\xe9", "line 3: not UTF-8"),
        ("c.csv", b"\xff", "line 1: not UTF-8"),
        ("c.jsonl", lines({"text": "x"}) + b"\n{oops\n", "line 3: not JSON"),
        ("c.jsonl", b"[1]\n", "line 1: not an object, but a list: .*name it .json"),
        ("c.jsonl", lines({"txt": "x"}), 'line 1: .*"text"'),
        ("c.jsonl", lines({"text": 3}), 'line 1: .*"text"'),
        ("c.jsonl", lines({"id": 1, "text": "x"}, {"id": 1, "text": "y"}), "line 2: the id '1'"),
        ("c.csv", b"id,text\n1,x\n1,y\n", "row 2: the id '1' occurs twice"),
        ("c.jsonl.gz", b"not gzip", "cannot be read"),
        ("c.pdf", b"%PDF-", "not a PDF"),
    ],
)
def test_a_bad_file_is_rejected_by_name_and_line(
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


def test_files_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "sub/a.md", "sub/c.doc", ".DS_Store", "a.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\nx\n")
    found = find_files([tmp_path / "sub" / "a.md", tmp_path, tmp_path / "b.txt"])
    assert [file.name for file in found.files] == ["a.md", "a.csv", "b.txt"]
    assert [file.name for file in find_files([tmp_path]).files] == ["a.csv", "b.txt", "sub/a.md"]
    assert found.skipped == {".doc": 1}
    assert found.left_out == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", "empty: the folder has no file to read"),
        ("others", r"others: none of its files \(2\) ends with one of \.txt, .*\.csv"),
        ("others/a.doc", r"a\.doc: not a supported format"),
        ("others/" + "x" * 300, "cannot be read"),
    ],
)
def test_a_path_without_files_to_read_is_an_error(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty" / "within").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    for name in ("a.doc", "b.png"):
        (tmp_path / "others" / name).write_bytes(b"x")
    with pytest.raises(CorpusError, match=message):
        find_files([tmp_path / path]).check()
