"""Leave out the files that .gitignore files name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.errors import require
from langchain_sift.indexing.paths import is_folder, is_there

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_GITIGNORE = ".gitignore"


class Ignored:
    """The files that .gitignore files name: those of a folder hold for all folders in it."""

    def __init__(self, root: Path) -> None:
        """Read the files of the folders above; `enter` reads those within."""
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
        end = "/" if is_folder(path) else ""
        for folder, spec in reversed(self._specs):
            if absolute.is_relative_to(folder):
                decided = spec.check_file(absolute.relative_to(folder).as_posix() + end).include
                if decided is not None:
                    return decided
        return False


def _above(root: Path) -> Iterable[Path]:
    """Return the folders above, from the repository's down; none outside of a repository."""
    if is_there(root / ".git"):
        return []
    folders: list[Path] = []
    for folder in root.parents:
        folders.insert(0, folder)
        if is_there(folder / ".git"):
            return folders
    return []
