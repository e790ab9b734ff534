"""Chroma: embedded, server or cloud, through `langchain_chroma`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
from chromadb import Collection
from chromadb.api.fastapi import FastAPI
from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError, RateLimitError
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_sift.errors import (
    CollectionNotFound,
    DimensionMismatch,
    InvalidFilter,
    SIFTError,
    StoreError,
    StoreUnavailable,
)
from langchain_sift.stores.adapter import Array, Rows

Found = Mapping[str, Any]

_INCLUDE: Any = ["documents", "metadatas", "embeddings"]
# Up to so many directions rows are fetched with the search itself.
_FEW = 4
# What Chroma Cloud gives at once.
_ROWS_PER_CALL = 300
_OVERLOADED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class ChromaAdapter:
    """Asks the collection itself.

    `Chroma`'s public methods either embed the query again or leave out the vectors. Never
    `query_texts`, never `.configuration`: both run configuration that the server stores, in
    this process.
    """

    search_arguments = ("filter", "where_document")

    def __init__(self, vectorstore: Chroma) -> None:
        """Keep the store."""
        self._store = vectorstore
        self.label = f"Chroma collection {vectorstore._collection_name!r}"

    def nearest(
        self,
        directions: Array,
        count: int,
        *,
        timeout: float,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> list[Rows]:
        """Ask once for all directions.

        For many directions their ids alone, and then each row once: most of the time goes into
        handing over vectors, and near directions have neighbours in common.
        """
        conditions: dict[str, Any] = {
            "where": where(filter),
            "where_document": where_document or None,
        }
        many = len(directions) > _FEW

        def query(collection: Collection) -> list[Rows]:
            found = collection.query(
                query_embeddings=list(directions.astype(np.float32)),
                n_results=count,
                include=[] if many else _INCLUDE,
                **conditions,
            )
            if not many:
                return rows_of_query(found)
            # Under the same conditions: a row may have changed in between.
            rows = [
                rows_of_get(collection.get(ids=part, include=_INCLUDE, **conditions))
                for part in parts_of(found["ids"])
            ]
            return shared_rows(found["ids"], rows)

        answers: list[Rows] = self._call(query, timeout)
        return answers

    def page(
        self,
        cursor: int | None,
        size: int,
        *,
        timeout: float,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> tuple[Rows, int | None]:
        """Count the rows already read."""
        offset = cursor or 0

        def get(collection: Collection) -> Any:
            return collection.get(
                limit=size,
                offset=offset,
                where=where(filter),
                where_document=where_document or None,  # type: ignore[arg-type]
                include=_INCLUDE,
            )

        rows = rows_of_get(self._call(get, timeout))
        return rows, offset + size if rows.seen == size else None

    def conjunction(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """Return both under one "$and"."""
        return {"$and": [where(first), where(second)]}

    def _call(self, operation: Any, timeout: float) -> Any:
        collection = self._store._chroma_collection
        try:
            if collection is None:
                collection = self._found_again()
            try:
                return operation(_patient(collection, timeout))
            except NotFoundError:
                # Deleted and made again, by another process or another handle: the name is
                # the same, and what it stands for is not.
                return operation(_patient(self._found_again(), timeout))
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error

    def _found_again(self) -> Collection:
        # Not `get_or_create`: a search that makes an empty collection hides the mistake.
        collection: Collection = self._store._client.get_collection(
            self._store._collection_name, embedding_function=None
        )
        # So that the store's own methods work again too.
        self._store._chroma_collection = collection
        return collection


class _PatientSession:
    """A server's HTTP session that waits for so long, and no longer."""

    def __init__(self, session: httpx.Client, timeout: float) -> None:
        self._session, self._timeout = session, timeout

    def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        response = self._session.request(method, url, timeout=self._timeout, **arguments)
        raise_if_overloaded(response)
        return response


def _patient(collection: Collection, timeout: float) -> Collection:
    """Return a handle whose calls over HTTP end; Chroma's own wait for ever."""
    server = collection._client
    if not isinstance(server, FastAPI):
        return collection  # embedded: no HTTP
    server, collection = copy.copy(server), copy.copy(collection)
    server._session = _PatientSession(server._session, timeout)  # type: ignore[assignment]
    collection._client = server
    return collection


def raise_if_overloaded(response: httpx.Response) -> None:
    """Tell "try again later" from other errors; Chroma's client loses the difference."""
    if response.status_code in _OVERLOADED:
        msg = f"Chroma server answered {response.status_code}: it asks to be left alone"
        raise StoreUnavailable(msg)


def where(conditions: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a filter as Chroma wants it: several keys need an explicit "$and".

    Raises:
        InvalidFilter: If it is no dictionary.
    """
    if not conditions:
        return None
    if not isinstance(conditions, dict):
        msg = f"a Chroma filter must be a dict, got {type(conditions).__name__}"
        raise InvalidFilter(msg)
    if len(conditions) == 1:
        return conditions
    return {"$and": [{key: value} for key, value in conditions.items()]}


def rows_of_query(found: Found) -> list[Rows]:
    """Return what `Collection.query` found, for each query."""
    # Without a row in the collection Chroma returns empty lists, or None.
    texts = found["documents"] or [[] for _ in found["ids"]]
    metadatas = found["metadatas"] or texts
    vectors = found["embeddings"] if found["embeddings"] is not None else texts
    return [
        _rows(*columns) for columns in zip(found["ids"], texts, metadatas, vectors, strict=True)
    ]


def parts_of(ids: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return all the ids, each once, in lists that one call may ask for."""
    different = list(dict.fromkeys(id_ for answer in ids for id_ in answer))
    return [
        different[start : start + _ROWS_PER_CALL]
        for start in range(0, len(different), _ROWS_PER_CALL)
    ]


def shared_rows(ids: Sequence[Sequence[str]], parts: Sequence[Rows]) -> list[Rows]:
    """Return for each list of ids its rows, in its order; those that are gone are left out."""
    documents = [document for rows in parts for document in rows.documents]
    if not documents:
        return [Rows([], np.empty((0, 0)), len(answer)) for answer in ids]
    vectors = np.concatenate([rows.vectors for rows in parts if rows.documents])
    places = {document.id: place for place, document in enumerate(documents)}
    answers = []
    for answer in ids:
        kept = [places[id_] for id_ in answer if id_ in places]
        # Each query gets documents of its own: what one caller does to them no other sees.
        own = [documents[place].model_copy() for place in kept]
        answers.append(Rows(own, vectors[kept], len(answer)))
    return answers


def rows_of_get(found: Found) -> Rows:
    """Return what `Collection.get` found."""
    vectors = found["embeddings"] if found["embeddings"] is not None else []
    return _rows(found["ids"], found["documents"] or [], found["metadatas"] or [], vectors)


def _rows(
    ids: Sequence[str],
    texts: Sequence[str | None],
    metadatas: Sequence[Mapping[str, Any] | None],
    vectors: Any,
) -> Rows:
    # A row without text is no document; Chroma returns None for it.
    kept = [row for row, text in enumerate(texts) if text is not None]
    documents = [
        Document(id=ids[row], page_content=texts[row] or "", metadata=dict(metadatas[row] or {}))
        for row in kept
    ]
    matrix = np.asarray(vectors, dtype=np.float64)
    if len(kept) < len(ids):
        matrix = matrix[kept]
    return Rows(documents, matrix if kept else np.empty((0, 0)), seen=len(ids))


def typed(error: Exception, label: str) -> SIFTError:
    """Return the error of Chroma, or of its client, as one of ours."""
    if isinstance(error, NotFoundError):
        msg = f"{label} does not exist: it was deleted, or has another name"
        return CollectionNotFound(msg)
    if isinstance(error, SIFTError):
        return error
    if isinstance(error, RateLimitError):
        return StoreUnavailable(f"{label}: {error}")
    if isinstance(error, InvalidArgumentError | ValueError | TypeError):
        if "dimension" in str(error):
            msg = f"{label}: {error}: open the store with the embeddings that filled it"
            return DimensionMismatch(msg)
        return InvalidFilter(f"{label}: {error}")
    return StoreError(f"{label}: {type(error).__name__}: {error}")
