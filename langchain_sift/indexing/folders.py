"""Find the files of a user, each once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats import READERS
from langchain_sift.ttft.texts import well_formed

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_LEFT_OUT = frozenset({"__MACOSX", "__pycache__", "node_modules", "desktop.ini", "Thumbs.db"})
_PREFIXES = (".", "~$")  # hidden files, AppleDouble's ._*, the locks of open documents
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# A folder with one of these holds a virtual environment, one of conda, or a cache.
_MARKS = ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG")
_GITIGNORE = ".gitignore"


@dataclass(frozen=True, slots=True)
class FolderRules:
    """The files of a folder that are left out."""

    everything: bool = False
    """If False, leave out hidden files, virtual environments, caches and checkpoints."""

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
    """The full path, which tells it from all other files. Links within the folder that was named
    are not resolved: a file that a link leads to lies in that folder."""

    @classmethod
    def of(cls, path: Path, folder: Path | None = None) -> SourceFile:
        """Return the file, named within a folder. Without one it is named by its last part."""
        folder = path.parent if folder is None else folder
        name = path.relative_to(folder).as_posix()
        return cls(path, well_formed(name), _full(folder, name))


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

    problems: tuple[str, ...] = ()
    """Links to nothing, and folders that cannot be read."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """For each full path without a file to read, the message of its error."""

    def check(self, is_known: Callable[[str], bool] = lambda _: False) -> None:
        """Reject paths without a file to read.

        Args:
            is_known: Returns True for a full path whose files were read before: it may be empty.

        Raises:
            CorpusError: If there is such a path.
        """
        for root, message in self.missing.items():
            if not is_known(root):
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
    others: set[Path] = set()
    walk = _Walk(rules)
    missing: dict[str, str] = {}
    for path in paths:
        is_file = _is_file(path)
        inside = [path] if is_file else sorted(walk.files_in(path))
        readable = [file for file in inside if file.name.lower().endswith(tuple(endings))]
        if not readable:
            missing[_root(path)] = _nothing_to_read(path, len(inside), endings)
        for file in readable:
            seen = found.setdefault(file.resolve(), SourceFile.of(file, None if is_file else path))
            walk.links += seen.path != file and not is_file
        others.update(file.resolve() for file in {*inside} - {*readable})
    return FoundFiles(
        files=tuple(found.values()),
        skipped=Counter(file.suffix.lower() or "no ending" for file in others),
        roots=tuple(_root(path) for path in paths),
        left_out=walk.left_out,
        links=walk.links,
        problems=tuple(walk.problems),
        missing=missing,
    )


def files_of(
    path: Path | str, *, endings: Sequence[str] = tuple(READERS)
) -> tuple[SourceFile, ...]:
    """Return the files of one path; a single file is named without its folder.

    Raises:
        CorpusError: If the path does not exist or cannot be read, is a file of another format, or
            a folder without a file of a known format.
    """
    found = find_files([Path(path)], endings=endings)
    found.check()
    files = found.files
    return files if len(files) > 1 else (SourceFile.of(files[0].path),)


class _Walk:
    """Walks through folders, and counts what it leaves out."""

    def __init__(self, rules: FolderRules) -> None:
        self.left_out = 0
        self.links = 0
        self.problems: list[str] = []
        self._rules = rules
        self._visited: set[tuple[int, int]] = set()

    def files_in(self, root: Path) -> Iterator[Path]:
        """Yield the files in a folder and in its folders."""
        self._visited.clear()  # a folder that is named again is in the result again, by its files
        ignored = _Ignored(root) if self._rules.gitignore else None
        for name, folders, files in os.walk(root, followlinks=True, onerror=self._report):
            folder = Path(name)
            if not self._is_new(folder):
                folders.clear()
                continue
            if ignored is not None:
                ignored.enter(folder)
            # A folder itself comes before links to it.
            folders.sort(key=lambda each: ((folder / each).is_symlink(), each))
            folders[:] = [each for each in folders if self._takes(folder / each, ignored)]
            for each in files:
                file = folder / each
                if self._takes(file, ignored) and self._exists(file):
                    yield file

    def _report(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self.problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    def _is_new(self, folder: Path) -> bool:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in self._visited:
            self.links += 1
            return False
        self._visited.add(identity)
        return True

    def _takes(self, path: Path, ignored: _Ignored | None) -> bool:
        taken = self._rules.everything or not _is_left_out(path)
        taken = taken and (ignored is None or not ignored.names(path))
        self.left_out += not taken
        return taken

    def _exists(self, file: Path) -> bool:
        if file.is_symlink() and not file.exists():
            self.problems.append(f"{file}: a link to nothing")
        return _is_file(file)


class _Ignored:
    """The files that .gitignore files name: those of a folder hold for all folders in it."""

    def __init__(self, root: Path) -> None:
        require("compare", "pathspec")
        self._specs: list[tuple[Path, GitIgnoreSpec]] = []
        above = [*_above(root.absolute())]
        for folder in above:
            self.enter(folder)

    def enter(self, folder: Path) -> None:
        """Read the folder's file, if it has one."""
        from pathspec import GitIgnoreSpec  # noqa: PLC0415 - only with this rule

        try:
            lines = (folder / _GITIGNORE).read_text("utf-8", "replace").splitlines()
        except OSError:
            return
        self._specs.append((folder.absolute(), GitIgnoreSpec.from_lines(lines)))

    def names(self, path: Path) -> bool:
        """Return True if the path is ignored; the file nearest to it decides."""
        absolute = path.absolute()
        end = "/" if path.is_dir() else ""
        for folder, spec in reversed(self._specs):
            if absolute.is_relative_to(folder):
                decided = spec.check_file(absolute.relative_to(folder).as_posix() + end).include
                if decided is not None:
                    return decided
        return False


def _above(root: Path) -> Iterable[Path]:
    """Return the folders above, from the repository's down; none outside of a repository."""
    if (root / ".git").exists():
        return []
    folders: list[Path] = []
    for folder in root.parents:
        folders.insert(0, folder)
        if (folder / ".git").exists():
            return folders
    return []


def _is_left_out(path: Path) -> bool:
    name = path.name
    if name.startswith(_PREFIXES) or name in _LEFT_OUT:
        return True
    if _CHECKPOINT.fullmatch(name) and path.is_dir():
        return True
    return path.is_dir() and any((path / mark).exists() for mark in _MARKS)


def _root(path: Path) -> str:
    """Return the full path of a file or folder that is named."""
    # These functions of `os.path` have an answer for every name, also one that is too long.
    is_folder = os.path.isdir(path)  # noqa: PTH112
    return _full(path, "") if is_folder else _full(path.parent, path.name)


def _full(folder: Path, name: str) -> str:
    return well_formed(str(Path(os.path.realpath(folder)) / name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _nothing_to_read(path: Path, files: int, endings: Sequence[str]) -> str:
    """Return the message for a path without a file to read."""
    kinds = ", ".join(endings)
    if _is_file(path):
        return f"{path}: not a kind that is read: its name must end with one of {kinds}"
    try:
        path.lstat()
    except FileNotFoundError:
        return f"{path}: no such file or folder"
    except OSError as error:
        return f"{path}: cannot be read: {error}"
    if not files:
        return f"{path}: the folder has no file to read: add files that end with one of {kinds}"
    return f"{path}: none of its {files} files ends with one of {kinds}"
