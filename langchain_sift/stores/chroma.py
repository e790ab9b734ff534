"""Chroma: embedded, server or cloud, through `langchain_chroma`."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from chromadb import Collection
from chromadb.errors import ChromaError, InvalidArgumentError
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, EmbeddingError, StoreError
from langchain_sift.stores.candidates import Candidates, make_candidates


def fetch_from_chroma(
    vectorstore: Chroma,
    query_embedding: npt.NDArray[np.float64],
    *,
    fetch_k: int,
    filter: dict[str, Any] | None = None,
    where_document: dict[str, Any] | None = None,
) -> Candidates:
    """Ask Chroma once for documents, ids, metadata and vectors; see `fetch_candidates`."""
    # The public methods either embed the query again or leave out the vectors, hence the
    # collection. Never `query_texts`, never `.configuration`: both run configuration that the
    # server stores, in this process.
    collection = _collection(vectorstore)
    try:
        found = collection.query(
            query_embeddings=[query_embedding.tolist()],
            n_results=fetch_k,
            where=_conjunction(filter),
            where_document=where_document or None,  # type: ignore[arg-type]
            include=["documents", "metadatas", "embeddings"],
        )
    except (InvalidArgumentError, ValueError) as error:  # Chroma's, and its client's own
        if "dimension" in str(error):
            msg = f"{error}: open the store with the embeddings that filled it"
            raise EmbeddingError(msg) from error
        raise ArgumentError(str(error)) from error
    except (ChromaError, httpx.HTTPError) as error:
        msg = f"Chroma could not answer the query: {type(error).__name__}: {error}"
        raise StoreError(msg) from error
    ids, texts = found["ids"][0], (found["documents"] or [[]])[0]
    metadatas = (found["metadatas"] or [[]])[0]
    vectors = np.asarray((found["embeddings"] or [[]])[0], dtype=np.float64)
    # A row without text is no document; Chroma returns None for it.
    rows = [row for row, text in enumerate(texts) if text is not None]
    documents = [
        Document(id=ids[row], page_content=texts[row], metadata=dict(metadatas[row] or {}))
        for row in rows
    ]
    return make_candidates(documents, vectors[rows], len(query_embedding))


def _collection(vectorstore: Chroma) -> Collection:
    try:
        return vectorstore._collection
    except ValueError as error:
        msg = "the store's collection was deleted: open the store again"
        raise StoreError(msg) from error


def _conjunction(conditions: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the filter as Chroma wants it: several keys need an explicit "$and"."""
    if not conditions:
        return None
    if len(conditions) == 1:
        return conditions
    return {"$and": [{key: value} for key, value in conditions.items()]}
