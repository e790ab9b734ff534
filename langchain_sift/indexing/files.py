"""Read the documents of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from langchain_core.documents import Document

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.attachments import with_attachments
from langchain_sift.indexing.beir import BeirFolder
from langchain_sift.indexing.folders import SourceFile, files_of
from langchain_sift.indexing.formats import READERS, Location, Reading, Record, reader_of
from langchain_sift.indexing.formats.records import Heading, Reader
from langchain_sift.indexing.metadata import label_of, storable
from langchain_sift.ttft.texts import well_formed

_ID_KEYS = ("id", "_id")
_PARTS_OF_A_DOCUMENT = ("page", "slide")


@dataclass(frozen=True, slots=True)
class Part:
    """A document of a file, to be split."""

    document: Document
    headings: tuple[Heading, ...]
    has_lines_of_file: bool
    """True if the lines of the document are those of the file."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file."""

    parts: tuple[Part, ...]

    notes: tuple[str, ...] = ()
    """Messages about the file, for its owner."""

    problems: tuple[str, ...] = ()
    """Reasons that parts of the file cannot be read, such as attachments."""


def read_corpus(path: Path | str) -> list[Document]:
    """Read the documents of a file, or of all files in a folder in the order of their names.

    Args:
        path: A file, or a folder of files, without its hidden files, virtual environments, caches
            and checkpoints. Each page of a `.pdf` is one document, and so is each slide of a
            `.pptx` file, each line of a `.jsonl` file (an object with a "text") and each row of a
            `.csv` file (its column "text", else all its columns); both may be packed (`.gz`). A
            file of another format is one document.
            Of a folder in the format of BEIR only corpus.jsonl is read, and a title is put before
            its text.

    Returns:
        The documents that hold more than space. An id is the "id" or "_id" of the line or row, by
        default the name of the file with the number of the line, row, page or slide. The other
        fields are the metadata, as far as Chroma can store them.

    Raises:
        CorpusError: If a file cannot be read, or an id occurs twice; the message names file and
            line.
        MissingExtraError: If a file is there whose parser is not installed.
    """
    seen: set[str] = set()
    documents = []
    collection = BeirFolder.find(path)
    for file in files_of(path if collection is None else collection.corpus):
        for name, record in _records(file, Reading(), READERS):
            if record.problem:
                raise CorpusError(record.problem)
            if record.note:
                continue
            location = Location(name, record.unit, record.number)
            named = (label_of(record.fields, key) for key in _ID_KEYS)
            identifier = next(filter(None, named), location.id)
            if identifier in seen:
                raise CorpusError(f"{location}: the id {identifier!r} occurs twice")
            seen.add(identifier)
            fields = {key: value for key, value in record.fields.items() if key not in _ID_KEYS}
            title = "" if collection is None else label_of(record.fields, "title")
            text = _text(f"{title}\n{record.text}" if title else record.text)
            documents.append(Document(id=identifier, page_content=text, metadata=storable(fields)))
    return [document for document in documents if document.page_content.strip()]


def read_file(
    file: SourceFile,
    reading: Reading = Reading(),  # noqa: B008 - immutable
    readers: Mapping[str, Reader] = READERS,
) -> FileContent:
    """Read the documents of a file that hold more than space, for `split`.

    The texts are those of `read_corpus`, with one kind of line end. The metadata have all fields,
    the number of the page, slide, line or row, from 1, and a source, unless the file has fields of
    these names. Documents of one source belong together, such as the pages of a PDF. A line or row
    without a source is a source by itself.

    Args:
        file: The file.
        reading: The settings of reading.
        readers: The readers of formats, by the ending of a file's name.

    Raises:
        CorpusError: If the file cannot be read; the message names file and line.
        MissingExtraError: If the parser of its format is not installed.
    """
    parts = []
    notes: list[str] = []
    problems: list[str] = []

    for name, record in _records(file, reading, readers):
        notes += filter(None, [record.note])
        problems += filter(None, [record.problem])
        position = {record.unit: record.number} if record.unit else {}
        about: list[str] = []
        try:
            metadata = {**storable(position), **storable(record.fields, about.append)}
        except CorpusError as error:
            where = Location(str(file.path), record.unit, record.number)
            raise CorpusError(f"{where}: {error}") from error
        notes += (f"{file.path}: {note}" for note in about)
        if metadata.get("source", "") == "":
            location = Location(name, record.unit, record.number)
            metadata["source"] = name if record.unit in _PARTS_OF_A_DOCUMENT else location.id
        text = _text(record.text).replace("\r\n", "\n").replace("\r", "\n")
        if text.strip():
            document = Document(text, metadata=metadata)
            parts.append(Part(document, record.headings, record.has_lines_of_file))
    return FileContent(tuple(parts), tuple(dict.fromkeys(notes)), tuple(problems))


def _text(text: str) -> str:
    """Return a text that stores and tokenizers take: without half characters and NULs."""
    return well_formed(text).replace("\0", "")


def _records(
    file: SourceFile, reading: Reading, readers: Mapping[str, Reader]
) -> Iterator[tuple[str, Record]]:
    """Yield the texts in a file, each with the name of its file: it may be an attachment."""
    reader = reader_of(file.path, readers)
    if reader is None:
        kinds = ", ".join(READERS)
        raise CorpusError(
            f"{file.path}: not a supported format: its name must end with one of {kinds}"
        )
    for record in reader(file.path, reading):
        yield from with_attachments(file.name, record, reading, readers)
