"""Return parent documents from a docstore in place of the chosen chunks.

Axes: n candidates, d dimensions, m query vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from langchain_core.documents import Document
from langchain_core.stores import BaseStore
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.opposites import opposite_penalties
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.interface import Lookup, Search, Source


@dataclass(frozen=True, slots=True)
class Parents:
    """A docstore of parent documents, as LangChain's `ParentDocumentRetriever` fills it."""

    docstore: BaseStore[str, Document]
    id_key: str = "doc_id"
    """Key of a parent's id in the metadata of its chunks."""

    def __post_init__(self) -> None:
        """Check the key.

        Raises:
            ArgumentError: If it is no key of metadata.
        """
        if not (isinstance(self.id_key, str) and self.id_key):
            raise ArgumentError(f"parent_id_key must be a key of the metadata, got {self.id_key!r}")

    @property
    def source(self) -> Source:
        """The docstore, as a search reads it."""
        label = f"docstore {type(self.docstore).__name__}"
        return Source(label, self.docstore.mget, self.docstore.amget)

    def id_of(self, chunk: Document) -> str | int | None:
        """Return the id of a chunk's parent; None if it has none.

        Raises:
            ArgumentError: If it is neither a text nor an integer.
        """
        value = chunk.metadata.get(self.id_key)
        if value is None or isinstance(value, str | int):
            return value
        raise ArgumentError(
            f"the id of the parent of chunk {chunk.id!r}, under {self.id_key!r}, must be a string, "
            f"got a {type(value).__name__}"
        )


@runtime_checkable
class ParentRetriever(Protocol):
    """LangChain's `ParentDocumentRetriever` and its parent class `MultiVectorRetriever`."""

    vectorstore: VectorStore
    docstore: BaseStore[str, Document]
    id_key: str
    search_type: Any
    search_kwargs: dict[str, Any]
    tags: list[str] | None
    metadata: dict[str, Any] | None


def best_chunks(
    candidates: Candidates, queries: Array, settings: SelectionSettings, parents: Parents
) -> Candidates:
    """Return the best chunk of each parent, in the order of the candidates.

    The best is the one with the highest gain if it was chosen first; of chunks that all point away
    from the query, the nearest. A chunk without a parent stays.

    Args:
        candidates: Chunks.
        queries: The vectors of the query, of unit norm, shape (m, d).
        settings: The settings of the selection.
        parents: The docstore.
    """
    products = candidates.embeddings @ queries.T
    gains = np.square(settings.kernel_function.of_products(np, products, 1.0, 1.0)).sum(axis=1)
    if candidates.relevance is not None:
        gains = gains * candidates.relevance
    penalties = opposite_penalties(queries, candidates.embeddings, settings)
    scores = np.where(penalties < 0.0, penalties, gains)
    best: dict[Hashable, int] = {}
    for row in np.argsort(-scores, kind="stable").tolist():
        id_ = parents.id_of(candidates.documents[row])
        best.setdefault(("chunk", row) if id_ is None else ("parent", id_), row)
    return candidates.take(sorted(best.values()))


def with_parents(
    candidates: Candidates, rows: Sequence[int] | None, parents: Parents
) -> Search[Candidates]:
    """Read the parents of the chunks in these rows, or of all, and put them in their place.

    A chunk without a parent, or whose parent the docstore lacks, stays.

    Raises:
        StoreError: If the docstore fails, or holds something else than documents.
    """
    rows = range(len(candidates.documents)) if rows is None else rows
    ids = {row: parents.id_of(candidates.documents[row]) for row in rows}
    wanted = tuple(dict.fromkeys(id_ for id_ in ids.values() if id_ is not None))
    found: Mapping[str | int, object] = (yield Lookup(parents.source, wanted)) if wanted else {}
    documents = list(candidates.documents)
    for row, id_ in ids.items():
        parent = found.get(id_) if id_ is not None else None
        if parent is not None:
            documents[row] = _checked(parent, id_, parents)
    return replace(candidates, documents=tuple(documents), chunks=candidates.documents, same=None)


def _checked(parent: object, id_: object, parents: Parents) -> Document:
    if not isinstance(parent, Document):
        raise StoreError(
            f"{parents.source.label} holds a {type(parent).__name__} for the id {id_!r}, and not a "
            "Document: wrap a store of bytes with langchain_classic.storage.create_kv_docstore"
        )
    return parent if parent.id is not None else parent.model_copy(update={"id": str(id_)})


def missing_parents(
    candidates: Candidates, rows: Sequence[int], parents: Parents
) -> tuple[str, ...]:
    """Return the ids of parents that the docstore lacks, of the chunks in these rows."""
    if candidates.chunks is None:
        return ()
    orphans = [
        candidates.chunks[row]
        for row in dict.fromkeys(rows)
        if candidates.chunks[row] is candidates.documents[row]
    ]
    return tuple(str(id_) for chunk in orphans if (id_ := parents.id_of(chunk)) is not None)


def warn_of_missing(ids: Sequence[str]) -> None:
    """Warn that the docstore lacks parents."""
    warnings.warn(
        f"the docstore lacks the parents of {len(ids)} chosen chunks, and the chunks are returned "
        "in their place: `missing_parents` of retrieve_with_scores has the ids of the parents",
        UserWarning,
        stacklevel=2,
    )
