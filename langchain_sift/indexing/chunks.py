"""Read files and split their documents into chunks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

from langchain_core.documents import Document

from langchain_sift.checks import check_integer
from langchain_sift.errors import (
    ArgumentError,
    CorpusError,
    MissingExtraError,
    SIFTError,
    require,
)
from langchain_sift.indexing.files import FileContent, Part, read_file
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import (
    CODE,
    DOCUMENTS,
    MARKDOWN,
    READERS,
    Reader,
    Reading,
)
from langchain_sift.indexing.headings import BOUND, heading_paths, with_bound_headings
from langchain_sift.indexing.origins import Origin
from langchain_sift.indexing.row_ids import RowId, file_digest

require("compare", "langchain_text_splitters")

from langchain_text_splitters import Language, RecursiveCharacterTextSplitter  # noqa: E402

# Keys of a chunk's position in its metadata. The first is LangChain's.
_OFFSET, _LINE, _HEADINGS = "start_index", "line", "headings"

# Paragraphs, lines, sentences, words, clauses, characters. The spaces of English divide words; many
# scripts have none, and divide sentences and clauses by signs of their own.
_SEPARATORS = ["\n\n", "\n", "(?<=[。！？｡।॥။።؟۔])", " ", "(?<=[、，；၊፣،])", ""]


@dataclass(frozen=True, slots=True)
class Chunking:
    """The lengths of chunks, checked."""

    size: int = 2000
    """Maximum length of a chunk."""

    overlap: int = 0
    """Maximum length that two neighbours share."""

    length: Callable[[str], int] = len
    """Returns the length of a text: its number of characters or of tokens."""

    at_headings: bool = False
    """If True, each heading begins a chunk. Otherwise a chunk may hold several short sections."""

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

    unreadable: Mapping[str, str]
    """The error of each file that was skipped, by its full path."""

    empty: tuple[str, ...]
    """Files without text, such as a PDF of pictures."""

    notes: tuple[str, ...] = ()
    """Messages about the files, for their owner."""

    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Errors of parts of files, such as attachments, by the full paths of the files, whose other
    parts were read."""

    def check(self) -> None:
        """Check that there are chunks.

        Raises:
            CorpusError: If no file holds text; the message names a file that cannot be read.
        """
        if self.chunks:
            return
        problems = [f"no text in the files (files: {self.files + len(self.unreadable)})"]
        if self.unreadable:
            first = next(iter(self.unreadable.values()))
            problems.append(f"{len(self.unreadable)} cannot be read, such as {first}")
        raise CorpusError("; ".join(problems))


def read_chunks(
    files: Sequence[SourceFile],
    chunking: Chunking,
    *,
    reading: Reading = Reading(),  # noqa: B008 - immutable
    readers: Mapping[str, Reader] = READERS,
    origin: Origin = Origin(),  # noqa: B008 - immutable
    strict: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> ReadFiles:
    """Read files and split their documents.

    Args:
        files: The files, from `find_files`.
        chunking: The lengths of the chunks.
        reading: The settings of reading.
        readers: The readers of formats, by the ending of a file's name.
        origin: The origin of all files; it is in the metadata of each chunk.
        strict: If True, a file that cannot be read is an error; otherwise it is skipped as a whole.
        on_file: Called after each file.

    Raises:
        CorpusError: If a file cannot be read and `strict` is True.
        MissingExtraError: If the parser of a format is not installed and `strict` is True.
    """
    documents = 0
    chunks: list[Document] = []
    unreadable: dict[str, str] = {}
    empty: list[str] = []
    notes: list[str] = []
    problems: dict[str, tuple[str, ...]] = {}
    for file in files:
        try:
            content, pieces = _read(file, reading, readers, chunking, origin)
            if strict and content.problems:
                raise CorpusError(content.problems[0])
        except (CorpusError, MissingExtraError) as error:
            if strict:
                raise
            named = isinstance(error, CorpusError)
            unreadable[file.full_path] = str(error) if named else f"{file.path}: {error}"
        else:
            documents += len(content.parts)
            chunks += pieces
            notes += content.notes
            if content.problems:
                problems[file.full_path] = content.problems
            elif not content.parts:
                empty.append(str(file.path))
        on_file()
    return ReadFiles(
        tuple(chunks),
        len(files) - len(unreadable),
        documents,
        unreadable,
        tuple(empty),
        tuple(notes),
        problems,
    )


def _read(
    file: SourceFile,
    reading: Reading,
    readers: Mapping[str, Reader],
    chunking: Chunking,
    origin: Origin,
) -> tuple[FileContent, list[Document]]:
    """Return the content of a file, and its chunks."""
    try:
        content = read_file(file, reading, readers)
        return content, split(file, content.parts, chunking, origin)
    except SIFTError:
        raise
    except Exception as error:  # a file that no reader expects must not end the run
        raise CorpusError(f"{file.path}: cannot be read ({type(error).__name__})") from error


def split(
    file: SourceFile,
    parts: Iterable[Part],
    chunking: Chunking,
    origin: Origin = Origin(),  # noqa: B008 - immutable
) -> list[Document]:
    """Split the documents of a file; see `RowId` for the ids of the chunks.

    Equal texts in one document are one chunk, the first. No chunk is empty. Unless the document
    has fields of these names, the metadata of a chunk name its position: "start_index", the number
    of characters before it in the document; "line", its first line in the file, from 1; and
    "headings", the titles above it from the highest level down, as "Rice > Harvest".

    Args:
        file: The file. Markdown and source code are split by the rules of their languages.
        parts: Its documents.
        chunking: The lengths of the chunks.
        origin: The origin of the rows.
    """
    splitter = _splitter_for(file.path, chunking)
    digest = file_digest(origin.name, file.full_path)
    chunks: list[Document] = []
    for part in parts:
        found: dict[str, dict[str, object]] = {}
        for text, position in _pieces(part, splitter, chunking):
            found.setdefault(text, position)
        for text, position in found.items():
            metadata = {**position, **part.document.metadata, **origin.metadata}
            id_ = RowId.of(text, digest, metadata)
            chunks.append(Document(text, id=str(id_), metadata=metadata))
    return chunks


def _pieces(
    part: Part, splitter: RecursiveCharacterTextSplitter, chunking: Chunking
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the chunks of a document that hold more than space, with their positions."""
    text = part.document.page_content
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]  # of the lines
    text = with_bound_headings(text, starts, part.headings)
    cuts = [starts[heading.line] for heading in part.headings] if chunking.at_headings else []
    cuts = [cut for cut in cuts if text[cut - 1] != BOUND]
    paths = heading_paths(part.headings)
    for start, end in pairwise([0, *cuts, len(text)]):
        offset = start
        for piece in splitter.split_text(text[start:end]):
            # The pieces are in order, and share text only with an overlap.
            found = text.find(piece, offset, end)
            offset = found if found >= 0 else max(start, text.rfind(piece, start, end))
            if piece.strip():
                line = bisect_right(starts, offset) - 1
                first = line + piece.partition("\n")[0].count(BOUND)  # of the text
                above = paths[bisect_right(part.headings, first, key=lambda each: each.line)]
                yield piece.replace(BOUND, "\n"), _position(part, offset, line, above)
            offset += 1 if chunking.overlap else len(piece)


def _position(part: Part, offset: int, line: int, headings: str) -> dict[str, object]:
    position: dict[str, object] = {_OFFSET: offset}
    if part.has_lines_of_file:
        position[_LINE] = line + 1
    if headings:
        position[_HEADINGS] = headings
    return position


def _splitter_for(path: Path, chunking: Chunking) -> RecursiveCharacterTextSplitter:
    name = path.name.lower()
    language = (
        "markdown"
        if name.endswith((*MARKDOWN, *DOCUMENTS, ".ipynb"))
        else CODE.get(path.suffix.lower())
    )
    separators = _SEPARATORS
    if language:
        separators = RecursiveCharacterTextSplitter.get_separators_for_language(Language(language))
    return RecursiveCharacterTextSplitter(
        separators=separators,
        is_separator_regex=True,
        chunk_size=chunking.size,
        chunk_overlap=chunking.overlap,
        length_function=chunking.length,
    )
