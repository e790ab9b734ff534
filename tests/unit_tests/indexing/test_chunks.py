"""Documents are split into chunks whose ids are hashes of their texts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
from unit_tests.indexing.sample_files import pdf

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.chunks import Chunking, read_chunks, split
from langchain_sift.indexing.files import SourceFile, find_files, read_file


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
    chunks = split(Path(name), [document], Chunking(size, overlap))
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
        file = tmp_path / name
        file.write_text(text)
        chunks = split(file, read_file(SourceFile(file, name)), chunking)
        assert texts_of(chunks) == expected.split_text(text)


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
        read_chunks(files, Chunking())
    calls: list[None] = []
    read = read_chunks(
        files, Chunking(20), skip_unreadable=True, on_file=lambda: calls.append(None)
    )
    assert len(calls) == 4
    assert {chunk.metadata["source"] for chunk in read.chunks} == {"a.txt"}
    assert (read.files, read.documents, len(read.chunks)) == (2, 1, 3)
    assert [problem.split(": ")[1] for problem in read.unreadable] == [
        "not UTF-8 at byte 1 of the line",
        "not JSON (Expecting property name enclosed in double quotes",
    ]
    assert read.empty == (str(tmp_path / "d.pdf"),)


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
        read_chunks(find_files([tmp_path]).files, Chunking(), skip_unreadable=True)
