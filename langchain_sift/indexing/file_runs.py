"""Index files: find, read and split them, and bring a collection to their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.errors import CorpusError, SIFTError
from langchain_sift.indexing.chroma_collections import embeddings_for
from langchain_sift.indexing.chunks import Chunking, ReadFiles, read_chunks
from langchain_sift.indexing.emptied_folders import check_folders
from langchain_sift.indexing.folders import FolderRules, FoundFiles, find_files
from langchain_sift.indexing.formats import READERS, Reader, Reading
from langchain_sift.indexing.origins import Origin
from langchain_sift.indexing.synchronize import Changes, Sources, known_files, synchronize
from langchain_sift.indexing.token_lengths import ChunkLengths, cut_texts
from langchain_sift.stores.location import ChromaLocation

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel


_UNRECORDED = (
    "{} rows of an earlier version stay, which did not record the files of its rows: no file of "
    "this run has their texts; if they are gone, index all files into a new collection"
)


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The settings of a run."""

    lengths: ChunkLengths = field(default_factory=ChunkLengths)
    rules: FolderRules = field(default_factory=FolderRules)
    reading: Reading = field(default_factory=Reading)

    readers: Mapping[str, Reader] = field(default_factory=lambda: READERS)
    """The readers of formats, by the ending of a file's name."""

    origin: Origin = field(default_factory=Origin)
    """The origin of all rows, such as a tenant."""

    strict: bool = False
    """If True, a file that cannot be read is an error, before anything is written."""

    keep_removed: bool = False
    """If True, delete no row."""

    allow_empty: bool = False
    """If True, delete the rows of a folder even if none of its files is there any more. If False,
    such a folder, or a disk in it that is no longer mounted, is an error, before anything is
    written."""

    limits: Callable[[str], object] = lambda _: None
    """Returns how much of a text the embeddings of a name take, as `text_limits` does, without
    loading them. If it returns None, the embeddings are loaded to find out."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Functions that are called during a run; each does nothing by default."""

    on_files: Callable[[int, int], None] = lambda *_: None
    """Called with the number of files that are read, and of all."""

    on_chunks: Callable[[int, int], None] = lambda *_: None
    """Called with the number of chunks in the collection, and of all."""

    on_warning: Callable[[str], None] = lambda _: None
    """Called with a warning, such as of chunks that the embeddings do not read to their ends."""


@dataclass(frozen=True, slots=True)
class FileRun:
    """The result of a run."""

    found: FoundFiles
    read: ReadFiles
    changes: Changes

    @property
    def problems(self) -> list[str]:
        """The files, folders and attachments that cannot be read, each with the reason."""
        return _problems(self.found, self.read)


def index_files(  # noqa: PLR0917 - as `index_into`, with settings
    where: str | ChromaLocation,
    name: str,
    paths: Sequence[Path],
    embeddings: str | None,
    load: Callable[[str], Embeddings | LanguageModel],
    settings: FileSettings = FileSettings(),
    progress: Progress = Progress(),
) -> FileRun:
    """Bring a collection to the state of files and folders; see `synchronize`.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection, made if it does not exist.
        paths: Files and folders.
        embeddings: The name of the embeddings. None means those that filled the collection.
        load: Returns the embeddings of a name, or a model whose hidden states are the embeddings.
        settings: The settings.
        progress: The functions that are called during the run.

    Raises:
        ArgumentError: As `embeddings_for`, or for a setting out of range.
        CorpusError: If a path has no file to read and had none before, no file holds text and none
            did before, a folder has none of its files any more and `allow_empty` is not set, or a
            file cannot be read and `strict` is set.
        MissingExtraError: If the parser of a format is not installed and `strict` is set.
        EmbeddingError: If the embeddings fail.
        StoreError: If the store fails.
    """
    named = embeddings_for(where, name, embeddings)
    loaded = cache(load)
    origin = settings.origin.name
    known = [file for file in known_files(where, name) if file.origin == origin]
    found = find_files(paths, endings=tuple(settings.readers), rules=settings.rules)
    found = found.keeping(file.path for file in known)
    found.check(lambda root: any(file.is_in({root}) for file in known))
    if settings.strict and found.problems:
        raise CorpusError(next(iter(found.problems.values())))
    paths_read = tuple(file.full_path for file in found.files)
    sources = Sources(origin, found.roots, paths_read, tuple(found.problems))
    if not (settings.keep_removed or settings.allow_empty):
        check_folders(where, name, sources, known)
    read = _read(
        found,
        settings,
        settings.lengths.chunking(lambda: settings.limits(named) or loaded(named)),
        progress,
    )
    if not any(file.is_in({*found.roots}) for file in known):
        read.check()

    def warn(made: Embeddings | LanguageModel, new: Sequence[Document]) -> None:
        """Warn of new chunks that are too long for the embeddings."""
        if (warning := cut_texts(made, new, settings.lengths)) is not None:
            progress.on_warning(warning)

    try:
        changes = synchronize(
            where,
            name,
            read.chunks,
            replace(sources, unreadable=(*found.problems, *read.unreadable, *read.problems)),
            named,
            loaded,
            keep_removed=settings.keep_removed,
            on_load=warn,
            on_progress=lambda done: progress.on_chunks(done, len(read.chunks)),
            on_unrecorded=lambda rows: progress.on_warning(_UNRECORDED.format(rows)),
        )
    except SIFTError:
        # They may be the cause: too few texts can be read for the embeddings.
        for problem in _problems(found, read):
            progress.on_warning(f"skipped: {problem}")
        raise
    return FileRun(found, read, changes)


def _problems(found: FoundFiles, read: ReadFiles) -> list[str]:
    """Return the reason of each file, folder and attachment that cannot be read."""
    attached = [problem for each in read.problems.values() for problem in each]
    return [*found.problems.values(), *read.unreadable.values(), *attached]


def _read(
    found: FoundFiles, settings: FileSettings, chunking: Chunking, progress: Progress
) -> ReadFiles:
    done = 0

    def on_file() -> None:
        """Count the file."""
        nonlocal done
        done += 1
        progress.on_files(done, len(found.files))

    return read_chunks(
        found.files,
        chunking,
        reading=settings.reading,
        readers=settings.readers,
        origin=settings.origin,
        strict=settings.strict,
        on_file=on_file,
    )
