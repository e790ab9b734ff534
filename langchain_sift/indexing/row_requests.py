"""Read, write and delete rows of a collection, in requests that every Chroma takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from chromadb import Collection
from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.indexing.metadata import MOST_VALUES, number_of_values

Item = TypeVar("Item")
Vector = Sequence[float]

# Chroma Cloud returns at most 300 rows for a request.
_ROWS_PER_CALL = 256
# An embedded store, or a server other than Chroma Cloud, returns ids by the thousand.
_IDS_PER_CALL = 10_000


def present_ids(collection: Collection | None, ids: Sequence[str]) -> set[str]:
    """Return those of some ids that the collection has; none without a collection."""
    present: set[str] = set()
    if collection is not None:
        for part in parts(ids):
            present.update(collection.get(ids=part, include=[])["ids"])
    return present


def every_id(collection: Collection, *, is_cloud: bool) -> Iterator[str]:
    """Yield the ids of all rows."""
    size, offset = _ROWS_PER_CALL if is_cloud else _IDS_PER_CALL, 0
    while page := collection.get(limit=size, offset=offset, include=[])["ids"]:
        yield from page
        offset += len(page)


def copied_vectors(collection: Collection, row_of: Mapping[str, str]) -> dict[str, Vector]:
    """Return the vectors of texts that the collection has.

    Args:
        collection: The collection.
        row_of: The id of a row for each text.

    Raises:
        StoreError: If a row is no longer there.
    """
    vectors: dict[str, Vector] = {}
    for part in parts([*row_of.values()]):
        page = collection.get(ids=part, include=["embeddings"])
        found = np.asarray(page["embeddings"], dtype=np.float64).tolist()
        vectors.update(zip(page["ids"], found, strict=True))
    try:
        return {text: vectors[id_] for text, id_ in row_of.items()}
    except KeyError as error:
        raise StoreError(
            f"the row {error} of the collection {collection.name!r} was deleted meanwhile: run the "
            "same command again"
        ) from error


def write_rows(
    collection: Collection, documents: Sequence[Document], vectors: Mapping[str, Vector]
) -> None:
    """Write documents with the vectors of their texts.

    Raises:
        ArgumentError: If a document has more metadata than a store takes.
    """
    for document in documents:
        if (number := number_of_values(document.metadata)) > MOST_VALUES:
            raise ArgumentError(
                f"the metadata of the document {document.id!r} have {number} values, and a store "
                f"takes {MOST_VALUES}: shorten its lists"
            )
    collection.upsert(
        ids=[str(document.id) for document in documents],
        embeddings=[vectors[document.page_content] for document in documents],
        documents=[document.page_content for document in documents],
        metadatas=[document.metadata or None for document in documents],  # type: ignore[misc]
    )


def delete_rows(collection: Collection, ids: Sequence[str]) -> None:
    """Delete the rows of these ids."""
    for part in parts(ids):
        collection.delete(ids=part)


def parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items in parts that one request takes."""
    for start in range(0, len(items), _ROWS_PER_CALL):
        yield list(items[start : start + _ROWS_PER_CALL])
