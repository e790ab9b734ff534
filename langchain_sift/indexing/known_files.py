"""Keep the paths of the files whose rows a collection has, in a collection beside it.

A file is recorded before its first row is written, and forgotten after its last row is deleted. So
the rows of a file that is gone are found again, whenever a run was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from chromadb import Collection
from chromadb.api import ClientAPI

from langchain_sift.indexing.companions import FILES, companion_name, find_companion
from langchain_sift.indexing.paths import at_or_above
from langchain_sift.indexing.row_ids import file_digest
from langchain_sift.indexing.row_requests import parts
from langchain_sift.stores.interface import ROWS_PER_CALL
from langchain_sift.ttft.texts import well_formed

_ORIGIN, _MOUNT = "origin", "mount"
_VECTOR = [1.0]  # a record of Chroma's needs one


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose rows a collection may have."""

    origin: str
    """The origin that its rows belong to, such as a tenant; "" without one."""

    path: str
    """Its full path."""

    mount: str = ""
    """The folder on which its disk is mounted; "" in records of earlier versions."""

    @property
    def digest(self) -> str:
        """The digest in the ids of its rows."""
        return file_digest(self.origin, self.path)

    def is_in(self, roots: AbstractSet[str]) -> bool:
        """Return True if the file is one of these paths, or in one of these folders."""
        return any(path in roots for path in at_or_above(self.path))


def read_known_files(client: ClientAPI, collection: Collection) -> list[KnownFile]:
    """Return the files whose rows a collection may have."""
    beside = find_companion(client, collection, FILES)
    found: list[KnownFile] = []
    while beside is not None:
        page = beside.get(
            limit=ROWS_PER_CALL, offset=len(found), include=["documents", "metadatas"]
        )
        for path, metadata in zip(page["documents"] or [], page["metadatas"] or [], strict=True):
            fields = metadata or {}
            found.append(KnownFile(str(fields.get(_ORIGIN, "")), path, str(fields.get(_MOUNT, ""))))
        if not page["ids"]:
            break
    return found


def add_known_files(client: ClientAPI, collection: Collection, files: Sequence[KnownFile]) -> None:
    """Record files, before their rows are written."""
    by_digest: Mapping[str, KnownFile] = {file.digest: file for file in files}
    beside = client.get_or_create_collection(
        companion_name(collection, FILES), embedding_function=None
    )
    for part in parts([*by_digest]):
        beside.upsert(
            ids=part,
            embeddings=[_VECTOR] * len(part),  # type: ignore[arg-type]
            documents=[well_formed(by_digest[digest].path) for digest in part],
            metadatas=[
                {_ORIGIN: by_digest[digest].origin, _MOUNT: well_formed(by_digest[digest].mount)}
                for digest in part
            ],
        )


def forget_files(client: ClientAPI, collection: Collection, digests: Sequence[str]) -> None:
    """Delete the records of files whose rows are deleted."""
    beside = find_companion(client, collection, FILES)
    if beside is not None:
        for part in parts(digests):
            beside.delete(ids=part)
