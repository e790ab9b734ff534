"""Find the files of a user, each once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import READERS
from langchain_sift.indexing.gitignore import Ignored
from langchain_sift.indexing.left_out import ARROW_FILES, holds_arrow_files, is_left_out
from langchain_sift.indexing.paths import (
    at_or_above,
    full_path,
    is_file,
    is_folder,
    is_link,
    is_there,
    named_path,
    path_within,
)
from langchain_sift.ttft.texts import well_formed

# Reasons that a file is not read.
_NO_READER = "not a supported format without its --loader"
_NOT_EVERYTHING = "left out without --all-files"


@dataclass(frozen=True, slots=True)
class FolderRules:
    """The files of a folder that are left out."""

    everything: bool = False
    """If False, leave out what is hidden, made by programs, or written by `compare`."""

    gitignore: bool = False
    """If True, leave out files that the folder's .gitignore files name, and those of the folders
    above it up to the repository's."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read, and its names."""

    path: Path

    name: str
    """The default source of its documents: the path within the folder that was named."""

    full_path: str
    """The full path, which identifies the file. Links within the folder that was named
    are not resolved: a file that a link leads to lies in that folder."""

    @classmethod
    def of(cls, path: Path, folder: Path | None = None) -> SourceFile:
        """Return the file, named within a folder. Without one it is named by its last part."""
        folder = path.parent if folder is None else folder
        name = path.relative_to(folder).as_posix()
        return cls(path, well_formed(name), path_within(full_path(folder), folder, path))


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files to read."""

    files: tuple[SourceFile, ...]

    skipped: Mapping[str, int]
    """Numbers of files in the folders that have other formats, by the endings of their names."""

    roots: tuple[str, ...] = ()
    """The full paths that were named."""

    left_out: int = 0
    """Number of files and folders that the rules leave out."""

    links: int = 0
    """Number of symbolic links to files and folders that are read once, under another name."""

    problems: Mapping[str, str] = field(default_factory=dict)
    """For the full path of each link to nothing, and of each file and folder that cannot be read,
    the message of its error."""

    unread: Mapping[str, str] = field(default_factory=dict)
    """For the full path of each file of another format, and of each file and folder that
    `FolderRules.everything` would read, the reason that it is not read."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """For each full path that was named and has no file to read, the message of its error."""

    refused: AbstractSet[str] = frozenset()
    """Those of them that are there, and neither folders nor unreadable: files of other formats."""

    def keeping(self, recorded: Iterable[str]) -> FoundFiles:
        """Return these with a problem for each unread path that was read before.

        So an option that is forgotten, such as a loader, does not count as a deletion.

        Args:
            recorded: The full paths of files that were read before.
        """
        found = {file.full_path for file in self.files}
        within = {above for path in recorded if path not in found for above in at_or_above(path)}
        problems = {
            path: f"{path}: {reason}; its rows stay"
            for path, reason in self.unread.items()
            if path in within
        }
        return replace(self, problems={**self.problems, **problems})

    def check(self, is_known: Callable[[str], bool] = lambda _: False) -> None:
        """Reject paths without a file to read.

        Args:
            is_known: Returns True for a full path whose files were read before: it may be gone,
                empty or unreadable.

        Raises:
            CorpusError: If there is such a path.
        """
        for root, message in self.missing.items():
            if root in self.refused or not is_known(root):
                raise CorpusError(message)


def find_files(
    paths: Sequence[Path],
    *,
    endings: Sequence[str] = tuple(READERS),
    rules: FolderRules = FolderRules(),
) -> FoundFiles:
    """Return the files of these paths and in these folders, each once, sorted within a folder.

    A file that is named is always read, also if the rules leave it out of a folder. Symbolic links
    are followed; a file or folder that several of them reach is read once.

    Args:
        paths: Files of a known format, and folders, in which files of other formats are skipped.
        endings: Endings of the names of known formats, in lower case.
        rules: The files of a folder that are left out.
    """
    found: dict[Path, SourceFile] = {}
    others: dict[str, Path] = {}
    walk = _Walk(rules)
    missing: dict[str, str] = {}
    refused: set[str] = set()
    for path in paths:
        root, single = full_path(path), is_file(path)
        inside = [path] if single else sorted(walk.files_in(path))
        readable = [file for file in inside if file.name.lower().endswith(tuple(endings))]
        if not readable:
            missing[root] = walk.problems.get(root) or _nothing_to_read(path, len(inside), endings)
            if root not in walk.problems and is_there(path) and not is_folder(path):
                refused.add(root)
        for file in readable:
            seen = found.setdefault(file.resolve(), SourceFile.of(file, None if single else path))
            walk.links += seen.path != file and not single
        others.update(
            (path_within(root, path, file), file.resolve()) for file in {*inside} - {*readable}
        )
    unread = {full: _NO_READER for full, resolved in others.items() if resolved not in found}
    return FoundFiles(
        files=tuple(found.values()),
        skipped=Counter(file.suffix.lower() or "without an ending" for file in {*others.values()}),
        roots=tuple(full_path(path) for path in paths),
        left_out=walk.left_out,
        links=walk.links,
        problems=walk.problems,
        unread={**walk.unread, **unread},
        missing=missing,
        refused=refused,
    )


def files_of(
    path: Path | str, *, endings: Sequence[str] = tuple(READERS)
) -> tuple[SourceFile, ...]:
    """Return the files of one path; a single file is named without its folder.

    Raises:
        ArgumentError: If the path is empty.
        CorpusError: If the path does not exist or cannot be read, is a file of another format, or
            a folder without a file of a known format.
    """
    found = find_files([named_path(str(path))], endings=endings)
    found.check()
    files = found.files
    return files if len(files) > 1 else (SourceFile.of(files[0].path),)


class _Walk:
    """Walks through folders, and counts what it leaves out."""

    def __init__(self, rules: FolderRules) -> None:
        self.left_out = 0
        self.links = 0
        self.problems: dict[str, str] = {}
        self.unread: dict[str, str] = {}
        self._rules = rules
        self._root = Path()
        self._visited: set[tuple[int, int]] = set()

    def files_in(self, root: Path) -> Iterator[Path]:
        """Yield the files in a folder and in its folders."""
        self._root = root
        self._visited.clear()  # a folder that is named again is in the result again, by its files
        ignored = Ignored(root) if self._rules.gitignore else None
        for name, folders, files in os.walk(root, followlinks=True, onerror=self._report):
            folder = Path(name)
            if not self._is_new(folder) or self._is_dataset(folder, files):
                folders.clear()
                continue
            if ignored is not None:
                ignored.enter(folder)
            # A folder itself comes before links to it.
            folders.sort(key=lambda each: (is_link(folder / each), each))
            folders[:] = [each for each in folders if self._takes(folder / each, ignored)]
            for each in files:
                file = folder / each
                if self._takes(file, ignored) and self._exists(file):
                    yield file

    def _report(self, error: OSError) -> None:
        """Record that a file or folder cannot be read, unless it is gone or no folder."""
        path = Path(os.fsdecode(error.filename))
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = f"cannot be read: {error.strerror}"
        elif is_link(path):
            reason = "a link to nothing"
        else:
            return
        self.problems[self._full(path)] = f"{path}: {reason}"

    def _full(self, path: Path) -> str:
        return path_within(full_path(self._root), self._root, path)

    def _is_new(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except OSError as error:  # it was deleted meanwhile
            self._report(error)
            return False
        identity = (status.st_dev, status.st_ino)
        if identity in self._visited:
            self.links += 1
            return False
        self._visited.add(identity)
        return True

    def _is_dataset(self, folder: Path, files: Sequence[str]) -> bool:
        """Record a folder with a dataset as Arrow files, of which the JSON files only tell."""
        is_dataset = holds_arrow_files(files)
        if is_dataset:
            self.problems[self._full(folder)] = f"{folder}: {ARROW_FILES}"
        return is_dataset

    def _takes(self, path: Path, ignored: Ignored | None) -> bool:
        if ignored is not None and ignored.names(path):
            self.left_out += 1
            return False
        if not self._rules.everything and is_left_out(path):
            self.left_out += 1
            self.unread[self._full(path)] = _NOT_EVERYTHING
            return False
        return True

    def _exists(self, file: Path) -> bool:
        """Return True for a file; pipes and sockets are none."""
        try:
            return S_ISREG(file.stat().st_mode)
        except OSError as error:
            self._report(error)
            return False


def _nothing_to_read(path: Path, files: int, endings: Sequence[str]) -> str:
    """Return the message for a path without a file to read."""
    kinds = ", ".join(endings)
    if is_file(path):
        return f"{path}: not a supported format: its name must end with one of {kinds}"
    if not is_there(path):
        return f"{path}: no such file or folder"
    if not is_folder(path):
        return f"{path}: neither a file nor a folder: there is no file to read"
    if not files:
        return f"{path}: the folder has no file to read: add files that end with one of {kinds}"
    return f"{path}: none of its files ({files}) ends with one of {kinds}"
