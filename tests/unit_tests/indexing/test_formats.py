"""Every format is read in full, or rejected by the name of the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from unit_tests.indexing.sample_files import pdf

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.files import SourceFile, read_file

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, name: str, content: bytes | str) -> list[Document]:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(SourceFile(file, name))


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def metadata_of(documents: list[Document]) -> list[dict[str, Any]]:
    return [document.metadata for document in documents]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.markdown", "A.TXT"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    (document,) = read(tmp_path, name, b"\xef\xbb\xbfcaf\xc3\xa9\r\nand tea\n")
    assert document.page_content == "café\nand tea\n"
    assert document.metadata == {"source": name}


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.pdf", pdf("Rice grows in wet fields.", "", "Wheat does not."))
    assert texts_of(documents) == ["Rice grows in wet fields.", "Wheat does not."]
    assert metadata_of(documents) == [
        {"source": "a.pdf", "page": 1},
        {"source": "a.pdf", "page": 3},
    ]


def test_a_pdf_with_an_empty_password_is_read(tmp_path: Path) -> None:
    assert texts_of(read(tmp_path, "a.pdf", pdf("Rice.", opens_with=""))) == ["Rice."]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".JSONL.GZ"])
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, ending: str) -> None:
    rows = [
        {"text": "one", "year": 3, "good": True, "tags": [], "none": None, "source": "theirs"},
        {"text": " "},
        {"text": "two", "id": "b", "huge": 2**70, "worst": float("nan"), "$key": 1, "": 2},
    ]
    lines = "\n".join(json.dumps(row) for row in rows[:1]) + "\n\n"
    lines += "\n".join(json.dumps(row) for row in rows[1:])
    content = lines.encode()
    documents = read(
        tmp_path, f"a{ending}", gzip.compress(content) if "gz" in ending.lower() else content
    )
    assert texts_of(documents) == ["one", "two"]
    assert metadata_of(documents) == [
        {"year": 3, "good": True, "source": "theirs", "line": 1},
        {"id": "b", "huge": str(2**70), "source": f"a{ending}:4", "line": 4},
    ]


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    row = r'{"text": "\ud83d\ude00 \ud83d rice", "k": "\udc00"}'
    (document,) = read(tmp_path, "a.jsonl", row)
    assert document.page_content == "😀 \N{REPLACEMENT CHARACTER} rice"
    assert document.metadata["k"] == "\N{REPLACEMENT CHARACTER}"


def test_the_other_columns_of_a_csv_row_with_a_text_are_metadata(tmp_path: Path) -> None:
    content = 'year,text, place\n1999,"rice, in\r\nwet fields",Java\n\n2000,,Bali\n2001,wheat\n'
    documents = read(tmp_path, "a.csv", content)
    assert texts_of(documents) == ["rice, in\nwet fields", "wheat"]
    assert metadata_of(documents) == [
        {"year": "1999", "place": "Java", "source": "a.csv:1", "row": 1},
        {"year": "2001", "source": "a.csv:3", "row": 3},
    ]


def test_a_row_keeps_its_source_and_without_one_is_a_source_by_itself(tmp_path: Path) -> None:
    rows = [{"source": source, "text": "rice"} for source in ("book", 0, "", None, float("nan"))]
    documents = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    sources = ["book", 0, "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert [document.metadata["source"] for document in documents] == sources
    documents = read(tmp_path, "a.csv", "text,source\nrice,book\nwheat,\nbarley\n")
    assert [document.metadata["source"] for document in documents] == ["book", "a.csv:2", "a.csv:3"]


def test_a_csv_row_without_a_text_is_all_its_columns(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.csv", "\ufeffname,age\nAda,36\n,\nBob,\n")
    assert texts_of(documents) == ["name: Ada\nage: 36", "name: Bob\nage: "]
    assert metadata_of(documents) == [
        {"source": "a.csv:1", "row": 1},
        {"source": "a.csv:3", "row": 3},
    ]
    assert read(tmp_path, "empty.csv", "") == read(tmp_path, "header.csv", "a,text\n") == []


def test_a_cell_may_be_longer_than_the_default_limit_of_csv(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (document,) = read(tmp_path, "a.csv", f"text\n{'x' * (limit + 1)}\n")
    assert len(document.page_content) == limit + 1
    assert csv.field_size_limit() == limit


@pytest.mark.slow
@SAME_FOLDER
@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab,"\n; é'), min_size=2, max_size=2).filter(
            lambda row: row[0].strip()
        ),
        max_size=5,
    )
)
def test_rows_written_by_csv_are_read_unchanged(tmp_path: Path, rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["text", "note"], *rows])
    documents = read(tmp_path, "a.csv", written.getvalue())
    assert [(one.page_content, one.metadata["note"]) for one in documents] == [
        tuple(r) for r in rows
    ]


def test_each_block_of_html_is_on_separate_lines(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title>Rice &amp; wheat</title><style>p {}</style>
    <script>let x = "<p>no</p>"</script></head><body>lead <b>bold</b>
    <i>it</i>alic<p>one
    two<p>three<br>four</p>tail<!-- unseen --><table><tr><td>a</td><td>b</td></tr>
    <tr><td>c</table><pre>
x
  y <span>z</span>
</pre>end<ul><li>l1<li>l2</ul><template><script>no</script>no</template><div>a<p></p>b</div>"""
    (document,) = read(tmp_path, "a.html", page)
    assert document.page_content.split("\n") == [
        *("Rice & wheat", "lead bold italic", "one two", "three", "four", "tail", "a b", "c"),
        *("x", "  y z", "end", "l1", "l2", "a", "b"),
    ]


def nested(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(["b", "p", "div", "td", "tr", "template", "x-y"])
    return st.builds(lambda n, inner: f"<{n}>{''.join(inner)}</{n}>", names, st.lists(children))


@pytest.mark.slow
@SAME_FOLDER
@given(
    st.lists(
        st.recursive(
            st.sampled_from(["word", " ", "<br>", "<!--c-->", "<script>no</script>"]), nested
        )
    )
)
def test_no_word_of_html_is_lost_or_joined_across_blocks(tmp_path: Path, parts: list[str]) -> None:
    documents = texts_of(read(tmp_path, "a.htm", "".join(f"<p>begin</p>{part}" for part in parts)))
    shown = "".join(documents)
    seen = without_templates("".join(parts))
    assert shown.count("word") == seen.count("word")
    assert "no" not in shown
    assert not any(line != line.strip() or not line for line in shown.split("\n") if documents)
    assert all("begin" not in line or line == "begin" for line in shown.split("\n"))


def without_templates(markup: str) -> str:
    """Return the markup outside of <template>, which may be nested."""
    depth, kept = 0, []
    for part in markup.replace("<template>", "\0<").replace("</template>", "\0>").split("\0"):
        depth += {"<": 1, ">": -1}.get(part[:1], 0) if part[:1] in "<>" and kept else 0
        kept.append(part if depth == 0 else "")
    return "".join(kept)


@pytest.mark.parametrize(
    "markup", ["https://example.org/", "a.txt", '<?xml version="1.0"?><p>x</p>']
)
def test_unusual_html_is_read_without_a_warning(tmp_path: Path, markup: str) -> None:
    assert texts_of(read(tmp_path, "a.html", markup))


@SAME_FOLDER
@example("<![oops[x]]>")  # only older parsers of Python reject it
@given(st.text(alphabet='<>!/[]-?"ab p\n&;'))
def test_html_is_parsed_or_rejected(tmp_path: Path, markup: str) -> None:
    try:
        read(tmp_path, "a.html", markup)
    except CorpusError as error:
        assert "a.html" in str(error)  # noqa: PT017 - most are parsed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\xe9t\xe9", "a.txt, line 2: not UTF-8"),
        ("a.md", b"\xff\xfea\0", "a.md, line 1: not UTF-8"),
        ("a.html", b"<p>\xe9", "a.html, line 1: not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{oops', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b'{"txt": "x"}', 'a.jsonl, line 1: .*"text"'),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"x" * 100, mtime=0)[:-9], "a.jsonl.gz: cannot be read"),
        (
            "a.jsonl.gz",
            gzip.compress(b"xyz", mtime=0)[:10] + b"\xff" * 20,
            "a.jsonl.gz: cannot be read",
        ),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv, line 3: 3 cells, and the first row names 2"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv, line 2: not CSV"),
        ("a.csv", b'a,b\n1,"2"x\n', "a.csv, line 2: not CSV"),
        ("a.pdf", b"", "a.pdf: not a PDF"),
        ("a.pdf", b"%PDF-1.4 and then nothing", "a.pdf: not a PDF"),
        ("a.pdf", pdf("Rice.")[:300], "a.pdf: not a PDF"),
        ("a.pdf", pdf("Rice.", opens_with="secret"), "a.pdf: an encrypted PDF"),
        ("a.doc", b"x", "a.doc: not a kind that is read: .*.html"),
    ],
)
def test_a_bad_file_is_rejected_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, name, content)


@pytest.mark.slow
def test_a_damaged_pdf_is_read_or_rejected(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = pdf("Rice grows in wet fields.", "Wheat does not.")
    rejected = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 30)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(tmp_path, "a.pdf", bytes(damaged))
        except CorpusError:
            rejected += 1
    assert rejected > 0
