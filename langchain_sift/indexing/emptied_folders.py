"""Stop before the rows of folders without any of their files are deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as AnyCollection
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.chroma_clients import typed_errors
from langchain_sift.indexing.chroma_collections import find_collection
from langchain_sift.indexing.known_files import KnownFile
from langchain_sift.indexing.paths import at_or_above, has_entries, is_mount
from langchain_sift.indexing.row_ids import RowId
from langchain_sift.indexing.row_requests import every_id
from langchain_sift.indexing.synchronize import Sources
from langchain_sift.stores.location import ChromaLocation


def check_folders(
    where: str | ChromaLocation, name: str, sources: Sources, known: Sequence[KnownFile]
) -> None:
    """Reject folders that had files, and now have none of them, such as a disk that is not mounted.

    A folder that is named may have as many new files: the old ones under new names. So may a folder
    in it, which is rejected only if a disk was mounted there when its files were recorded, and none
    is now. A file that is named and gone is rejected, too, if nothing else is in its folder.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection.
        sources: The files of the run.
        known: The recorded files of its origin.

    Raises:
        CorpusError: If there is such a folder; the message names the number of its rows.
        StoreError: If the store fails.
    """
    gone, roots = sources.gone(known), {*sources.roots}
    there = {file.path for file in known}
    new = _number_in(roots, (path for path in sources.files if path not in there))
    files, lost = _number_in(roots, there), _number_in(roots, (file.path for file in gone))
    lone = {file.path for file in gone if not has_entries(Path(file.path).parent)}
    for path in (*sources.roots, *_unmounted(gone, known)):
        inside = [file for file in gone if file.is_in({path}) or file.mount == path]
        if path in lone or path not in roots or lost[path] == files[path] > new[path]:
            number = files[path] if path in roots else len(inside)
            raise CorpusError(
                f"{path}: none of its indexed files is there now (files: {number or 1}), and "
                f"{_rows_of(where, name, {file.digest for file in inside})} rows would be deleted: "
                "if the files are gone, give --allow-empty; otherwise make the folder available, "
                "as by mounting its disk"
            )


def _unmounted(gone: Sequence[KnownFile], known: Sequence[KnownFile]) -> list[str]:
    """Return the folders of which all files are gone with the disk that was mounted there."""
    lost = {file.path for file in gone}
    left = {file.mount for file in known if file.path not in lost}
    mounts = {file.mount for file in gone if file.mount} - left
    return sorted(mount for mount in mounts if not is_mount(mount))


def _number_in(roots: AbstractSet[str], files: Iterable[str]) -> Counter[str]:
    """Return the numbers of files below the folders that are named."""
    return Counter(
        path for file in files for path in at_or_above(file) if path in roots and path != file
    )


def _rows_of(where: str | ChromaLocation, name: str, digests: AnyCollection[str]) -> int:
    """Return the number of rows of files."""
    location = ChromaLocation.of(where)
    collection = find_collection(location, name)
    if collection is None:
        return 0
    with typed_errors(location, name):
        return sum(
            parts.file in digests
            for id_ in every_id(collection, is_cloud=location.is_cloud)
            if (parts := RowId.parse(id_)) is not None
        )
