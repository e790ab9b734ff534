"""Documents are split into chunks whose ids are hashes of their texts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from declaration import DECLARATION
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
from unit_tests.indexing.sample_files import pdf

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.chunks import Chunking, read_chunks, split
from langchain_sift.indexing.files import Part, read_file
from langchain_sift.indexing.folders import SourceFile, find_files
from langchain_sift.indexing.formats import READERS, Reading, Record
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.origins import Origin
from langchain_sift.indexing.row_ids import RowId, file_digest


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (0, 0, "chunk size must be an integer of at least 1, got 0"),
        (5, 5, "below .* 5, got 5"),
        (5, -1, "chunk overlap must be an integer of at least 0, got -1"),
    ],
)
def test_lengths_out_of_range_are_rejected(size: int, overlap: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Chunking(size, overlap)


@pytest.mark.slow
@given(
    text=st.text(alphabet="abc é😀\n#`."),
    size=st.integers(2, 40),
    overlap=st.integers(0, 1),
    name=st.sampled_from(["a.txt", "a.md"]),
)
def test_chunks_hold_the_whole_text_and_their_ids_are_hashes_of_it(
    text: str, size: int, overlap: int, name: str
) -> None:
    document = Document(text, metadata={"source": name})
    file = SourceFile.of(Path("/folder") / name)
    chunks = split(file, [Part(document, (), has_lines_of_file=True)], Chunking(size, overlap))
    for chunk in chunks:
        assert 0 < len(chunk.page_content.strip()) <= len(chunk.page_content) <= size
        start = chunk.metadata["start_index"]
        assert text[start:].startswith(chunk.page_content)
        line = text[:start].count("\n") + 1
        assert chunk.metadata == {"source": name, "start_index": start, "line": line}
        digests = RowId.parse(str(chunk.id))
        assert digests is not None
        assert digests.text == hashlib.sha256(chunk.page_content.encode()).hexdigest()[:32]
        assert digests.file == file_digest("", f"/folder/{name}")
    assert len({chunk.page_content for chunk in chunks}) == len(chunks)
    if not overlap:
        assert {*"".join(texts_of(chunks))} >= {*"".join(text.split())}


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
        file = tmp_path / name
        file.write_text(text)
        chunks = split(SourceFile.of(file), read_file(SourceFile.of(file)).parts, chunking)
        assert texts_of(chunks) == expected.split_text(text)


SECTIONS = [
    ("before", None),
    ("# Rice\n\nIt grows.", "Rice"),
    ("Harvest\n-------\nIn autumn.\n```\n# no heading\n```", "Rice > Harvest"),
    ("### By hand ##\nWith a sickle.", "Rice > Harvest > By hand"),
    ("# Wheat\nIt does not.", "Wheat"),
]


def test_a_chunk_names_its_position_and_the_headings_above_it(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("\r\n\r\n".join(text.replace("\n", "\r\n") for text, _ in SECTIONS), newline="")
    text = file.read_text()
    chunks = split(
        SourceFile.of(file), read_file(SourceFile.of(file)).parts, Chunking(60, at_headings=True)
    )
    assert [(chunk.page_content, chunk.metadata.get("headings")) for chunk in chunks] == SECTIONS
    for chunk in chunks:
        assert text[chunk.metadata["start_index"] :].startswith(chunk.page_content)
        lines = text.split("\n")
        assert lines[chunk.metadata["line"] - 1] == chunk.page_content.split("\n")[0]
    page = tmp_path / "a.html"
    page.write_text("<h1>Rice</h1>It grows.<h2>Harvest</h2><p>In autumn.</p><h1>Wheat</h1>No.")
    chunks = split(
        SourceFile.of(page), read_file(SourceFile.of(page)).parts, Chunking(60, at_headings=True)
    )
    assert [(chunk.page_content, chunk.metadata["headings"]) for chunk in chunks] == [
        ("Rice\nIt grows.", "Rice"),
        ("Harvest\nIn autumn.", "Rice > Harvest"),
        ("Wheat\nNo.", "Wheat"),
    ]


def test_front_matter_and_rules_are_no_headings() -> None:
    text = "---\ntitle: x\n# y\n---\n\na list\n\n- one\n---\n\n# Title\n"
    assert [heading.title for heading in headings_of(text)] == ["Title"]


def test_texts_of_scripts_without_spaces_are_cut_at_sentences() -> None:
    text = "人人生而自由，在尊严和权利上一律平等。" * 4
    part = Part(Document(text), (), has_lines_of_file=True)
    chunks = split(SourceFile.of(Path("a.txt")), [part], Chunking(size=25))
    assert texts_of(chunks) == ["人人生而自由，在尊严和权利上一律平等。"]


def test_texts_of_every_language_are_cut_without_a_loss(tiny_tokenizer: Any) -> None:
    for unit in (Chunking(40), Chunking(24, length=lambda t: len(tiny_tokenizer.tokenize(t)))):
        for language, text in DECLARATION.items():
            part = Part(Document(text), (), has_lines_of_file=True)
            chunks = texts_of(split(SourceFile.of(Path("a.txt")), [part], unit))
            assert all(0 < unit.length(chunk) <= unit.size for chunk in chunks), language
            found = [m.span() for c in chunks for m in re.finditer(re.escape(c), text)]
            covered = {place for start, end in found for place in range(start, end)}
            assert all(n in covered or c.isspace() for n, c in enumerate(text)), language


def test_the_fields_of_a_file_are_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    fields = {"line": "14b", "start_index": 7, "headings": ["x"], "source": "book", "page": 3}
    file.write_text(json.dumps({"text": "rice", **fields}))
    (chunk,) = split(SourceFile.of(file), read_file(SourceFile.of(file)).parts, Chunking())
    assert chunk.metadata == fields


def test_an_origin_is_in_the_metadata_and_in_the_ids(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "rice", "tenant": "theirs"}))
    ids = set()
    for names in ([], ["tenant=a"], ["tenant=b"]):
        read = read_chunks([SourceFile.of(file)], Chunking(), origin=Origin.of(names))
        ids.add(read.chunks[0].id)
        assert read.chunks[0].metadata["tenant"] == (names[0][-1] if names else "theirs")
    assert len(ids) == 3
    for wrong in ("tenant", "=a", "tenant="):
        with pytest.raises(ArgumentError, match="must be KEY=VALUE"):
            Origin.of([wrong])
    with pytest.raises(ArgumentError, match="cannot be stored"):
        Origin.of(["$tenant=a"])


def test_unreadable_files_are_named_or_skipped(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": b"rice " * 10,
        "b.txt": b"\xff",
        "c.jsonl": b'{"text": "wheat"}\n{oops\n',
        "d.pdf": pdf(""),
    }.items():
        (tmp_path / name).write_bytes(content)
    files = find_files([tmp_path]).files
    with pytest.raises(CorpusError, match=r"b\.txt, line 1: not UTF-8"):
        read_chunks(files, Chunking(), strict=True)
    calls: list[None] = []
    read = read_chunks(files, Chunking(20), on_file=lambda: calls.append(None))
    assert len(calls) == 4
    assert {chunk.metadata["source"] for chunk in read.chunks} == {"a.txt"}
    assert (read.files, read.documents, len(read.chunks)) == (2, 1, 2)
    assert [Path(path).name for path in read.unreadable] == ["b.txt", "c.jsonl"]
    assert [problem.split(": ")[1] for problem in read.unreadable.values()] == [
        "not UTF-8 at byte 1 of the line",
        "not JSON (Expecting property name enclosed in double quotes",
    ]
    assert read.empty == (str(tmp_path / "d.pdf"),)


def test_an_error_that_no_reader_expects_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("rice")
    (tmp_path / "b.bad").write_text("wheat")
    files = find_files([tmp_path], endings=(".txt", ".bad")).files

    def broken(_: Path, __: Reading) -> Iterator[Record]:
        raise ZeroDivisionError

    readers = {**READERS, ".bad": broken}
    read = read_chunks(files, Chunking(), readers=readers)
    assert texts_of(list(read.chunks)) == ["rice"]
    assert [*read.unreadable.values()] == [
        f"{tmp_path / 'b.bad'}: cannot be read (ZeroDivisionError)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", r"no text in the files \(files: 1\)$"),
        (b"\xff", r"1 cannot be read, such as .*a\.txt"),
    ],
)
def test_files_without_text_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_chunks(find_files([tmp_path]).files, Chunking()).check()


@pytest.mark.parametrize("at_headings", [False, True])
@pytest.mark.parametrize("name", ["a.md", "a.html"])
def test_a_heading_is_in_one_chunk_with_the_text_that_follows_it(
    tmp_path: Path, name: str, *, at_headings: bool
) -> None:
    titles = ["Rice", "Harvest", "Water", "Pests"]
    words = "many words of one long paragraph " * 20
    if name == "a.md":
        text = f"# Rice\n\n## Harvest\n\nIt is cut.\n\n## Water\n\n{words}\n\nPests\n---\n\n{words}"
    else:
        text = (
            "<h1>Rice</h1><h2>Harvest</h2><p>It is cut.</p>"
            f"<h2>Water</h2><p>{words}</p><h2>Pests</h2><p>{words}</p>"
        )
    (tmp_path / name).write_text(text)
    file = SourceFile.of(tmp_path / name)
    chunks = split(file, read_file(file).parts, Chunking(100, at_headings=at_headings))
    for chunk in chunks:
        assert len(chunk.page_content) <= 100
        lines = [line.strip("# -") for line in chunk.page_content.splitlines()]
        assert {*filter(None, lines)} - {*titles}
    paths = [chunk.metadata["headings"] for chunk in chunks]
    assert [*dict.fromkeys(paths)] == [f"Rice > {title}" for title in titles[1:]]
