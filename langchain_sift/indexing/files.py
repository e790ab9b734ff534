"""A user's files of many kinds: found, read and split into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, CorpusError, require
from langchain_sift.indexing.corpus import storable
from langchain_sift.indexing.formats import MARKDOWN, READERS, reader_of
from langchain_sift.ttft.model.tokens import well_formed

require("compare", "langchain_text_splitters")

from langchain_text_splitters import Language, RecursiveCharacterTextSplitter  # noqa: E402


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to be read."""

    path: Path

    name: str
    """What its documents name as their source, where they have none of their own: the path within
    the folder it was found in."""


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What there is to read."""

    files: tuple[SourceFile, ...]

    passed_over: int
    """How many files in the folders are of other kinds."""


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """What was in files."""

    chunks: tuple[Document, ...]
    files: int
    """How many could be read."""

    documents: int
    """How many texts, pages, lines and rows there are in them."""

    unreadable: tuple[str, ...]
    """What was wrong with each file that was passed over."""

    empty: tuple[str, ...]
    """Files without text, such as a PDF of pictures."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are split."""

    size: int = 2000
    """Characters of a chunk at most."""

    overlap: int = 0
    """Characters at most that two neighbours have in common."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: If one is out of range.
        """
        if self.size < 1:
            raise ArgumentError(f"the chunk size must be at least 1, got {self.size}")
        if not 0 <= self.overlap < self.size:
            raise ArgumentError(
                f"the chunk overlap must be at least 0 and below the chunk size of {self.size}, "
                f"got {self.overlap}"
            )


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """Return the files of these paths and in these folders, each once, in the order of names.

    Args:
        paths: Files, each of a kind that is read, and folders, where others are passed over.

    Raises:
        CorpusError: If there is no such path, a file is of another kind, or a folder has none
            that is not.
    """
    found: dict[Path, SourceFile] = {}
    others: set[Path] = set()
    for path in paths:
        try:
            inside = [path] if path.is_file() else _files_in(path)
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read: {error}") from error
        readable = [file for file in inside if reader_of(file) is not None]
        if not readable:
            raise CorpusError(_none_readable(path, len(inside)))
        for file in readable:
            name = file.name if file == path else file.relative_to(path).as_posix()
            found.setdefault(file.resolve(), SourceFile(file, name))
        others.update(file.resolve() for file in inside if reader_of(file) is None)
    return FoundFiles(tuple(found.values()), len(others))


def read_chunks(
    files: Sequence[SourceFile],
    chunking: Chunking,
    *,
    skip_unreadable: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> ReadFiles:
    """Return the chunks of all files.

    Args:
        files: What `find_files` found.
        chunking: How their documents are split.
        skip_unreadable: Whether to go on after a file that cannot be read, without any of it.
        on_file: Called after each file.

    Raises:
        CorpusError: If a file cannot be read, or there is no text in any.
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
            chunks += split(file, read, chunking)
            if not read:
                empty.append(str(file.path))
        on_file()
    if not chunks:
        msg = f"there is no text in what was given (files: {len(files)})"
        if unreadable:
            msg += f"; {len(unreadable)} cannot be read, such as {unreadable[0]}"
        raise CorpusError(msg)
    return ReadFiles(
        tuple(chunks), len(files) - len(unreadable), documents, tuple(unreadable), tuple(empty)
    )


def read_file(file: SourceFile) -> list[Document]:
    """Return the documents of a file that hold text.

    A text, Markdown or HTML file is one document, of a PDF each page is one, of a `.jsonl` or
    `.jsonl.gz` file each line, and of a CSV file each row. The metadata have the page, line or
    row, from 1, and what else a line or row says. What has one "source" belongs together, such
    as the pages of a PDF: a line or row keeps the one that it names, and without a name it is
    one of its own.

    Raises:
        CorpusError: If the file is not what it should be; the message names file and line.
    """
    reader = reader_of(file.path)
    if reader is None:
        raise CorpusError(_none_readable(file.path, 1))
    documents = []
    for text, metadata, number in reader(file.path):
        own = storable(metadata)
        if own.get("source", "") == "":
            own["source"] = file.name if number is None else f"{file.name}:{number}"
        documents.append(Document(_plain(text), metadata=own))
    return [document for document in documents if document.page_content.strip()]


def split(file: SourceFile, documents: Iterable[Document], chunking: Chunking) -> list[Document]:
    """Return the chunks of a file's documents, whose ids are hashes of their texts.

    The same text has the same id wherever it stands. No chunk is empty.
    """
    lengths: dict[str, Any] = {"chunk_size": chunking.size, "chunk_overlap": chunking.overlap}
    if file.path.suffix.lower() in MARKDOWN:
        splitter = RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, **lengths)
    else:
        splitter = RecursiveCharacterTextSplitter(**lengths)
    return [
        Document(text, id=chunk_id(text), metadata=document.metadata.copy())
        for document in documents
        for text in splitter.split_text(document.page_content)
        if text.strip()
    ]


def chunk_id(text: str) -> str:
    """Return what identifies a chunk: the beginning of its text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such file or folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise CorpusError(f"{folder}: the folder is empty")
    return files


def _none_readable(path: Path, files: int) -> str:
    kinds = ", ".join(READERS)
    if path.is_dir():
        return f"{path}: none of its {files} files ends with one of {kinds}"
    return f"{path}: not a kind that is read: its name must end with one of {kinds}"


def _plain(text: str) -> str:
    """Return a text that can be encoded, with lines that end in one way."""
    return well_formed(text).replace("\r\n", "\n").replace("\r", "\n")
