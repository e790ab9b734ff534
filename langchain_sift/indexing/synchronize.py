"""Bring a collection to the state of its files: write what is new, delete what is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chromadb import Collection
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.indexing.chroma_clients import connect, typed_errors
from langchain_sift.indexing.chroma_collections import find_collection
from langchain_sift.indexing.index import index_into
from langchain_sift.indexing.known_files import (
    KnownFile,
    add_known_files,
    forget_files,
    read_known_files,
)
from langchain_sift.indexing.paths import mounts_of
from langchain_sift.indexing.row_ids import RowId, is_earlier_id, text_digest
from langchain_sift.indexing.row_requests import delete_rows, every_id
from langchain_sift.stores.location import ChromaLocation

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel


@dataclass(frozen=True, slots=True)
class Changes:
    """Numbers of rows."""

    added: int
    updated: int
    """Rows that took the place of others: of another text or other metadata in the same file, or of
    a row of an earlier version."""

    removed: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a run, and the places that it brings up to date."""

    origin: str
    """The origin that the rows belong to, such as a tenant; "" without one."""

    roots: tuple[str, ...]
    """Full paths of files and folders: a recorded file in them that is not found is gone."""

    files: tuple[str, ...]
    """Full paths of the files that were found."""

    unreadable: tuple[str, ...] = ()
    """Full paths of files and folders that cannot be read now: the rows of recorded files at and
    below them stay."""

    def present(self) -> list[KnownFile]:
        """Return the files that were found."""
        mounts = mounts_of(self.files)
        return [KnownFile(self.origin, *each) for each in zip(self.files, mounts, strict=True)]

    def gone(self, known: Iterable[KnownFile]) -> list[KnownFile]:
        """Return the recorded files that were not found, and that nothing unreadable hides."""
        found, roots, hidden = {*self.files}, {*self.roots}, {*self.unreadable}
        return [
            file
            for file in known
            if file.origin == self.origin
            and file.path not in found
            and file.is_in(roots)
            and not file.is_in(hidden)
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from the stored rows to the wanted ones."""

    gone: tuple[str, ...]
    """Ids of rows to delete."""

    vectors_of: Mapping[str, str]
    """For texts to write that another row has, the id of that row."""

    to_embed: tuple[Document, ...]
    """The documents to write whose texts no row has."""

    changes: Changes

    unrecorded: int
    """Number of rows of an earlier version that stay: their files are not known."""


def known_files(where: str | ChromaLocation, name: str) -> list[KnownFile]:
    """Return the files whose rows a collection may have; none if it does not exist.

    Raises:
        StoreError: If the store fails.
    """
    collection = find_collection(where, name)
    if collection is None:
        return []
    with typed_errors(where, name):
        return read_known_files(connect(where), collection)


def synchronize(  # noqa: PLR0917 - as `index_into`, with the sources
    where: str | ChromaLocation,
    name: str,
    chunks: Sequence[Document],
    sources: Sources,
    embeddings: str | None,
    load: Callable[[str], Embeddings | LanguageModel],
    *,
    keep_removed: bool = False,
    on_load: Callable[[Embeddings | LanguageModel, Sequence[Document]], None] = lambda *_: None,
    on_progress: Callable[[int], None] = lambda _: None,
    on_unrecorded: Callable[[int], None] = lambda _: None,
) -> Changes:
    """Write the chunks of files into a collection, and delete the rows that the files lack.

    New rows are written before old ones are deleted, and the ids of the rows show which steps are
    done. So after a run that was killed, the next run reaches the same state. Rows of files
    elsewhere, of other origins and of other programs stay as they are.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection, made if it does not exist.
        chunks: The chunks of all files that were read, with ids of the form `RowId`.
        sources: The files.
        embeddings: As in `index_into`.
        load: As in `index_into`. Texts that the collection has are not embedded again.
        keep_removed: If True, delete nothing.
        on_load: Called with the embeddings and the chunks that they embed, once they are loaded.
        on_progress: Called with the number of different chunks in the collection.
        on_unrecorded: Called at the end with the number of rows of an earlier version, if there are
            any: nothing tells whether their files are gone.

    Raises:
        ArgumentError: As `index_into`.
        NotFittedError: As `index_into`.
        EmbeddingError: As `index_into`.
        StoreError: If the store fails.
    """
    location = ChromaLocation.of(where)
    collection = find_collection(location, name)
    stored: list[str] = []
    gone_files: list[KnownFile] = []
    if collection is not None:
        with typed_errors(location, name):
            stored = list(every_id(collection, is_cloud=location.is_cloud))
            gone_files = sources.gone(read_known_files(connect(location), collection))
    present = sources.present()
    kept = {file.digest for file in present if file.path in {*sources.unreadable}}
    in_scope = {file.digest for file in (*present, *gone_files)} - kept
    plan = plan_changes(stored, chunks, () if keep_removed else in_scope)

    def loaded(name: str) -> Embeddings | LanguageModel:
        """Load the embeddings, and call `on_load`."""
        made = load(name)
        on_load(made, plan.to_embed)
        return made

    index_into(
        location,
        name,
        chunks,
        embeddings,
        loaded,
        vectors_of=plan.vectors_of,
        before_rows=lambda made: add_known_files(connect(location), made, present),
        on_progress=on_progress,
    )
    if collection is not None and not keep_removed:
        with typed_errors(location, name):
            _delete(location, collection, plan.gone, gone_files)
        if plan.unrecorded:
            on_unrecorded(plan.unrecorded)
    return plan.changes


def plan_changes(
    stored: Sequence[str], wanted: Sequence[Document], in_scope: AnyCollection[str]
) -> Plan:
    """Compare the rows of a collection with the wanted ones.

    A row whose id is the digest of a text belongs to an earlier version, which wrote each text
    once: it is replaced by the rows with that text.

    Args:
        stored: Ids of the rows.
        wanted: Documents with ids of the form `RowId`.
        in_scope: Digests of the files whose other rows are deleted.
    """
    there, asked = {*stored}, {str(document.id): document for document in wanted}
    digests = {text: text_digest(text) for text in {d.page_content for d in asked.values()}}
    own = {id_: parts for id_ in stored if (parts := RowId.parse(id_)) is not None}
    row_of = {parts.text: id_ for id_, parts in own.items()}
    earlier = {id_ for id_ in stored if is_earlier_id(id_)}
    replaced = (earlier & {*digests.values()}) if in_scope else set()
    obsolete = [id_ for id_, one in own.items() if one.file in in_scope and id_ not in asked]
    new = [document for id_, document in asked.items() if id_ not in there]
    vectors_of: dict[str, str] = {}
    for document in new:
        digest = digests[document.page_content]
        row = digest if digest in earlier else row_of.get(digest)
        if row is not None:
            vectors_of[document.page_content] = row
    replacing = sum(digests[document.page_content] in replaced for document in new)
    in_place = Counter(_file_of(str(d.id)) for d in new if digests[d.page_content] not in replaced)
    pairs = (in_place & Counter(own[id_].file for id_ in obsolete)).total()
    changes = Changes(
        added=len(new) - replacing - pairs,
        updated=replacing + pairs,
        removed=len(obsolete) - pairs,
        unchanged=len(asked) - len(new),
    )
    to_embed = tuple(document for document in new if document.page_content not in vectors_of)
    gone, unrecorded = (*obsolete, *sorted(replaced)), len(earlier) - len(replaced)
    return Plan(gone, vectors_of, to_embed, changes, unrecorded)


def _file_of(id_: str) -> str:
    parts = RowId.parse(id_)
    return "" if parts is None else parts.file


def _delete(
    location: ChromaLocation,
    collection: Collection,
    rows: Sequence[str],
    files: Sequence[KnownFile],
) -> None:
    """Delete rows, and then the records of files without rows."""
    delete_rows(collection, rows)
    if files:
        forget_files(connect(location), collection, [file.digest for file in files])
