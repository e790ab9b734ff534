"""Files of every kind are read as they are, or refused by name."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from fpdf import FPDF
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.files import (
    Chunking,
    SourceFile,
    find_files,
    read_chunks,
    read_file,
    split,
)

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
# What HTML shows as one space, and no more.
SPACE = " \t\n"


def pdf(*pages: str, opens_with: str | None = None) -> bytes:
    made = FPDF()
    if opens_with is not None:
        made.set_encryption("owner", opens_with)
    for page in pages:
        made.add_page()
        made.set_font("helvetica", size=12)
        if page:
            made.multi_cell(0, text=page)
    return bytes(made.output())


def read(folder: Path, name: str, content: bytes | str) -> list[Document]:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(SourceFile(file, name))


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def metadata_of(documents: list[Document]) -> list[dict[str, Any]]:
    return [document.metadata for document in documents]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.markdown", "A.TXT"])
def test_a_text_is_one_document(tmp_path: Path, name: str) -> None:
    (found,) = read(tmp_path, name, b"\xef\xbb\xbfcaf\xc3\xa9\r\nand tea\n")
    assert found.page_content == "café\nand tea\n"
    assert found.metadata == {"source": name}


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    found = read(tmp_path, "a.pdf", pdf("Rice grows in wet fields.", "", "Wheat does not."))
    assert texts_of(found) == ["Rice grows in wet fields.", "Wheat does not."]
    assert metadata_of(found) == [{"source": "a.pdf", "page": 1}, {"source": "a.pdf", "page": 3}]


def test_a_pdf_that_anybody_may_read_is_read(tmp_path: Path) -> None:
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
    found = read(
        tmp_path, f"a{ending}", gzip.compress(content) if "gz" in ending.lower() else content
    )
    assert texts_of(found) == ["one", "two"]
    assert metadata_of(found) == [
        {"year": 3, "good": True, "source": "theirs", "line": 1},
        {"id": "b", "huge": str(2**70), "source": f"a{ending}:4", "line": 4},
    ]


def test_what_cannot_be_encoded_is_replaced(tmp_path: Path) -> None:
    row = r'{"text": "\ud83d\ude00 \ud83d rice", "k": "\udc00"}'
    (found,) = read(tmp_path, "a.jsonl", row)
    assert found.page_content == "😀 \N{REPLACEMENT CHARACTER} rice"
    assert found.metadata["k"] == "\N{REPLACEMENT CHARACTER}"


def test_a_row_of_csv_with_a_text_has_the_rest_as_metadata(tmp_path: Path) -> None:
    content = 'year,text, place\n1999,"rice, in\r\nwet fields",Java\n\n2000,,Bali\n2001,wheat\n'
    found = read(tmp_path, "a.csv", content)
    assert texts_of(found) == ["rice, in\nwet fields", "wheat"]
    assert metadata_of(found) == [
        {"year": "1999", "place": "Java", "source": "a.csv:1", "row": 1},
        {"year": "2001", "source": "a.csv:3", "row": 3},
    ]


def test_a_row_keeps_its_own_source_and_one_without_is_a_source_of_its_own(tmp_path: Path) -> None:
    rows = [{"source": source, "text": "rice"} for source in ("book", 0, "", None, float("nan"))]
    found = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    sources = ["book", 0, "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert [document.metadata["source"] for document in found] == sources
    found = read(tmp_path, "a.csv", "text,source\nrice,book\nwheat,\nbarley\n")
    assert [document.metadata["source"] for document in found] == ["book", "a.csv:2", "a.csv:3"]


def test_a_row_of_csv_without_a_text_is_its_columns(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "\ufeffname,age\nAda,36\n,\nBob,\n")
    assert texts_of(found) == ["name: Ada\nage: 36", "name: Bob\nage: "]
    assert metadata_of(found) == [
        {"source": "a.csv:1", "row": 1},
        {"source": "a.csv:3", "row": 3},
    ]
    assert read(tmp_path, "empty.csv", "") == read(tmp_path, "header.csv", "a,text\n") == []


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (found,) = read(tmp_path, "a.csv", f"text\n{'x' * (limit + 1)}\n")
    assert len(found.page_content) == limit + 1
    assert csv.field_size_limit() == limit


@SAME_FOLDER
@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab,"\n; é'), min_size=2, max_size=2).filter(
            lambda row: row[0].strip()
        ),
        max_size=5,
    )
)
def test_what_csv_writes_is_what_is_read(tmp_path: Path, rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["text", "note"], *rows])
    found = read(tmp_path, "a.csv", written.getvalue())
    assert [(one.page_content, one.metadata["note"]) for one in found] == [tuple(r) for r in rows]


def test_a_page_of_html_has_its_blocks_on_lines_of_their_own(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title>Rice &amp; wheat</title><style>p {}</style>
    <script>let x = "<p>no</p>"</script></head><body>lead <b>bold</b>
    <i>it</i>alic<p>one
    two<p>three<br>four</p>tail<!-- unseen --><table><tr><td>a</td><td>b</td></tr>
    <tr><td>c</table><pre>
x
  y <span>z</span>
</pre>end<ul><li>l1<li>l2</ul><template><script>no</script>no</template><div>a<p></p>b</div>"""
    (found,) = read(tmp_path, "a.html", page)
    assert found.page_content.split("\n") == [
        *("Rice & wheat", "lead bold italic", "one two", "three", "four", "tail", "a b", "c"),
        *("x", "  y z", "end", "l1", "l2", "a", "b"),
    ]


def nested(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(["b", "p", "div", "td", "tr", "template", "x-y"])
    return st.builds(lambda n, inner: f"<{n}>{''.join(inner)}</{n}>", names, st.lists(children))


@SAME_FOLDER
@given(
    st.lists(
        st.recursive(
            st.sampled_from(["word", " ", "<br>", "<!--c-->", "<script>no</script>"]), nested
        )
    )
)
def test_no_word_of_html_is_lost_or_joined_across_blocks(tmp_path: Path, parts: list[str]) -> None:
    found = texts_of(read(tmp_path, "a.htm", "".join(f"<p>begin</p>{part}" for part in parts)))
    shown = "".join(found)
    seen = without_templates("".join(parts))
    assert shown.count("word") == seen.count("word")
    assert "no" not in shown
    assert not any(line != line.strip() or not line for line in shown.split("\n") if found)
    assert all("begin" not in line or line == "begin" for line in shown.split("\n"))


def without_templates(markup: str) -> str:
    """Return what stands outside of <template>, which may be nested."""
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
@example("<![oops[x]]>")  # what Python's parser has become lenient about
@given(st.text(alphabet='<>!/[]-?"ab p\n&;'))
def test_html_is_parsed_or_refused(tmp_path: Path, markup: str) -> None:
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
        ("a.jsonl.gz", gzip.compress(b"x" * 100)[:-9], "a.jsonl.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"xyz")[:10] + b"\xff" * 20, "a.jsonl.gz: cannot be read"),
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
def test_a_bad_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, name, content)


def test_a_damaged_pdf_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = pdf("Rice grows in wet fields.", "Wheat does not.")
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 30)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(tmp_path, "a.pdf", bytes(damaged))
        except CorpusError:
            refused += 1
    assert refused > 0


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.txt", "sub/a.md", "sub/c.doc", ".DS_Store", "a.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\nx\n")
    found = find_files([tmp_path / "sub" / "a.md", tmp_path, tmp_path / "b.txt"])
    assert [file.name for file in found.files] == ["a.md", "a.csv", "b.txt"]
    assert [file.name for file in find_files([tmp_path]).files] == ["a.csv", "b.txt", "sub/a.md"]
    assert found.passed_over == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", "empty: the folder is empty"),
        ("others", r"others: none of its 2 files ends with one of \.txt, .*\.csv"),
        ("others/a.doc", r"a\.doc: not a kind that is read"),
        ("others/" + "x" * 300, "cannot be read"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty" / "within").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    for name in ("a.doc", "b.png"):
        (tmp_path / "others" / name).write_bytes(b"x")
    with pytest.raises(CorpusError, match=message):
        find_files([tmp_path / path])


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(0, 0, "size must be at least 1, got 0"), (5, 5, "below .* 5, got 5"), (5, -1, "got -1")],
)
def test_a_chunking_that_cannot_be_is_refused(size: int, overlap: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Chunking(size, overlap)


@given(
    text=st.text(alphabet="abc é😀\n#`."),
    size=st.integers(2, 40),
    overlap=st.integers(0, 1),
    name=st.sampled_from(["a.txt", "a.md"]),
)
def test_chunks_hold_the_whole_text_and_their_ids_are_of_their_text(
    text: str, size: int, overlap: int, name: str
) -> None:
    document = Document(text, metadata={"source": name})
    chunks = split(SourceFile(Path(name), name), [document], Chunking(size, overlap))
    for chunk in chunks:
        assert 0 < len(chunk.page_content.strip()) <= len(chunk.page_content) <= size
        assert chunk.page_content in text
        assert chunk.metadata == {"source": name}
        assert chunk.id == hashlib.sha256(chunk.page_content.encode()).hexdigest()[:32]
    if not overlap:
        assert "".join("".join(texts_of(chunks)).split()) == "".join(text.split())


def test_markdown_is_split_at_its_headings(tmp_path: Path) -> None:
    text = (
        "# Rice\n\nIt grows in wet fields.\n\n## Harvest\n\nIn autumn.\n\n# Wheat\n\nIt does not."
    )
    chunking = Chunking(size=40)
    plain = RecursiveCharacterTextSplitter(chunk_size=40, chunk_overlap=0)
    markdown = RecursiveCharacterTextSplitter.from_language(
        Language.MARKDOWN, chunk_size=40, chunk_overlap=0
    )
    assert plain.split_text(text) != markdown.split_text(text)
    for name, expected in (("a.md", markdown), ("a.txt", plain)):
        chunks = split(SourceFile(tmp_path / name, name), read(tmp_path, name, text), chunking)
        assert texts_of(chunks) == expected.split_text(text)


def test_files_that_cannot_be_read_are_named_or_passed_over(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": b"rice " * 10,
        "b.txt": b"\xff",
        "c.jsonl": b'{"text": "wheat"}\n{oops\n',
        "d.pdf": pdf(""),
    }.items():
        (tmp_path / name).write_bytes(content)
    files = find_files([tmp_path]).files
    with pytest.raises(CorpusError, match=r"b\.txt, line 1: not UTF-8"):
        read_chunks(files, Chunking())
    calls: list[None] = []
    found = read_chunks(
        files, Chunking(20), skip_unreadable=True, on_file=lambda: calls.append(None)
    )
    assert len(calls) == 4
    assert {chunk.metadata["source"] for chunk in found.chunks} == {"a.txt"}
    assert (found.files, found.documents, len(found.chunks)) == (2, 1, 3)
    assert [problem.split(": ")[1] for problem in found.unreadable] == [
        "not UTF-8 at byte 1 of the line",
        "not JSON (Expecting property name enclosed in double quotes",
    ]
    assert found.empty == (str(tmp_path / "d.pdf"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", r"no text in what was given \(files: 1\)$"),
        (b"\xff", r"1 cannot be read, such as .*a\.txt"),
    ],
)
def test_files_without_text_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_chunks(find_files([tmp_path]).files, Chunking(), skip_unreadable=True)
