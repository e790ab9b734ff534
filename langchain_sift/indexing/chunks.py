"""Split documents into chunks, with ids by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_core.documents import Document

from langchain_sift.checks import check_integer
from langchain_sift.errors import ArgumentError, CorpusError, require
from langchain_sift.indexing.files import SourceFile, read_file
from langchain_sift.indexing.formats import MARKDOWN

require("compare", "langchain_text_splitters")

from langchain_text_splitters import Language, RecursiveCharacterTextSplitter  # noqa: E402


@dataclass(frozen=True, slots=True)
class Chunking:
    """The lengths of chunks, checked."""

    size: int = 2000
    """Maximum number of characters of a chunk."""

    overlap: int = 0
    """Maximum number of characters that two neighbours share."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: If a number is out of range.
        """
        check_integer("the chunk size", self.size, 1)
        check_integer("the chunk overlap", self.overlap, 0)
        if self.overlap >= self.size:
            raise ArgumentError(
                f"the chunk overlap must be below the chunk size of {self.size}, got {self.overlap}"
            )


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """The chunks of files, and the files without any."""

    chunks: tuple[Document, ...]

    files: int
    """Number of files that were read."""

    documents: int
    """Number of texts, pages, lines and rows in them."""

    unreadable: tuple[str, ...]
    """The error of each file that was skipped."""

    empty: tuple[str, ...]
    """Files without text, such as a PDF of pictures."""


def read_chunks(
    files: Sequence[SourceFile],
    chunking: Chunking,
    *,
    skip_unreadable: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> ReadFiles:
    """Read files and split their documents.

    Args:
        files: The files, from `find_files`.
        chunking: The lengths of the chunks.
        skip_unreadable: If True, skip files that cannot be read, each as a whole.
        on_file: Called after each file.

    Raises:
        CorpusError: If a file cannot be read, or no file holds text.
        MissingExtraError: If the parser of a format is not installed.
    """
    documents = 0
    chunks: list[Document] = []
    unreadable, empty = [], []
    for file in files:
        try:
            read = read_file(file)
        except CorpusError as error:
            if not skip_unreadable:
                raise
            unreadable.append(str(error))
        else:
            documents += len(read)
            chunks += split(file.path, read, chunking)
            if not read:
                empty.append(str(file.path))
        on_file()
    if not chunks:
        problems = [f"no text in the files (files: {len(files)})"]
        if unreadable:
            problems.append(f"{len(unreadable)} cannot be read, such as {unreadable[0]}")
        raise CorpusError("; ".join(problems))
    return ReadFiles(
        tuple(chunks), len(files) - len(unreadable), documents, tuple(unreadable), tuple(empty)
    )


def split(path: Path, documents: Iterable[Document], chunking: Chunking) -> list[Document]:
    """Split the documents of a file; the id of a chunk is a hash of its text.

    Equal texts have equal ids, wherever they occur. No chunk is empty.

    Args:
        path: The file. If its name ends as Markdown, headings separate chunks first.
        documents: Its documents.
        chunking: The lengths of the chunks.
    """
    size, overlap = chunking.size, chunking.overlap
    if path.suffix.lower() in MARKDOWN:
        splitter = RecursiveCharacterTextSplitter.from_language(
            Language.MARKDOWN, chunk_size=size, chunk_overlap=overlap
        )
    else:
        splitter = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=overlap)
    return [
        Document(text, id=_content_id(text), metadata=document.metadata.copy())
        for document in documents
        for text in splitter.split_text(document.page_content)
        if text.strip()
    ]


def _content_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
