"""Chroma: embedded, server or cloud, through `langchain_chroma`."""

from __future__ import annotations

import copy
import json
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
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows

Found = Mapping[str, Any]

INCLUDE: Any = ["documents", "metadatas", "embeddings"]
# Up to so many directions rows are fetched with the search itself.
FEW = 4
# What Chroma Cloud gives at once.
_ROWS_PER_CALL = 300
# "Try again later", and what a gateway says while the server behind it restarts.
_OVERLOADED = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


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
        conditions = conditions_of(filter, where_document)
        many = len(directions) > FEW

        def query(collection: Collection) -> tuple[Found, list[Any] | None]:
            found: Any = collection.query(
                query_embeddings=list(directions.astype(np.float32)),
                n_results=count,
                include=[] if many else INCLUDE,
                **conditions,
            )
            if not many:
                return found, None
            # Under the same conditions: a row may have changed in between.
            return found, [
                collection.get(ids=part, include=INCLUDE, **conditions)
                for part in parts_of(found["ids"])
            ]

        return rows_of_query(*self._call(query, timeout))

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
        conditions = conditions_of(filter, where_document)

        def get(collection: Collection) -> Any:
            return collection.get(limit=size, offset=offset, include=INCLUDE, **conditions)

        rows = rows_of_get(self._call(get, timeout))
        return rows, offset + size if rows.seen == size else None

    def conjunction(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """Return both under one "$and"."""
        return {"$and": [where(first), where(second)]}

    def _call(self, operation: Any, timeout: float) -> Any:
        collection = self._store._chroma_collection
        try:
            if collection is None:
                collection = self._found_again(timeout)
            try:
                return operation(self._patient(collection, timeout))
            except NotFoundError:
                # Deleted and made again, by another process or another handle: the name is
                # the same, and what it stands for is not.
                return operation(self._patient(self._found_again(timeout), timeout))
        except (ChromaError, ValueError, TypeError) as error:
            raise typed(error, self.label) from error

    def _found_again(self, timeout: float) -> Collection:
        client = copy.copy(self._store._client)
        client._server = self._patient_server(client._server, timeout)
        # Not `get_or_create`: a search that makes an empty collection hides the mistake.
        collection: Collection = client.get_collection(
            self._store._collection_name, embedding_function=None
        )
        collection._client = self._store._client._server
        # So that the store's own methods work again too.
        self._store._chroma_collection = collection
        return collection

    def _patient(self, collection: Collection, timeout: float) -> Collection:
        collection = copy.copy(collection)
        collection._client = self._patient_server(collection._client, timeout)
        return collection

    def _patient_server(self, server: Any, timeout: float) -> Any:
        """Return a server whose calls over HTTP end; those of Chroma's own wait for ever."""
        if not isinstance(server, FastAPI):
            return server  # embedded: no HTTP
        patient: Any = copy.copy(server)
        patient._session = _PatientSession(server._session, timeout, self.label)
        return patient


class _PatientSession:
    """A server's HTTP session that waits for so long, and no longer."""

    def __init__(self, session: httpx.Client, timeout: float, label: str) -> None:
        self._session, self._timeout, self._label = session, timeout, label

    def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        response = self._session.request(method, url, timeout=self._timeout, **arguments)
        raise_if_overloaded(response, self._label)
        return response


def raise_if_overloaded(response: httpx.Response, label: str) -> None:
    """Tell "try again later" from other errors; Chroma's client loses the difference."""
    if response.status_code in _OVERLOADED:
        raise StoreUnavailable(
            f"{label}: the server answered {response.status_code}, to try again later"
        )


def conditions_of(
    filter: dict[str, Any] | None, where_document: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of Chroma's calls that say which rows may be answered with."""
    return {"where": where(filter), "where_document": where_document or None}


def where(conditions: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a filter as Chroma wants it: several keys need an explicit "$and".

    Raises:
        InvalidFilter: If it is no dictionary.
    """
    if not conditions:
        return None
    if not isinstance(conditions, dict):
        raise InvalidFilter(f"a Chroma filter must be a dict, got {type(conditions).__name__}")
    if len(conditions) == 1:
        return conditions
    return {"$and": [{key: value} for key, value in conditions.items()]}


def rows_of_query(found: Found, parts: Sequence[Found] | None) -> list[Rows]:
    """Return what `Collection.query` found, for each query.

    Args:
        found: What it returned.
        parts: What `Collection.get` returned for its ids, where it was asked for ids alone.
    """
    if parts is not None:
        return _shared_rows(found, parts)
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


def _shared_rows(found: Found, parts: Sequence[Found]) -> list[Rows]:
    """Return for each query its rows, out of those of all; what is gone is left out."""
    rows = [part for part in map(rows_of_get, parts) if part.documents]
    if not rows:
        return [Rows([], np.empty((0, 0)), len(ids)) for ids in found["ids"]]
    documents = [document for part in rows for document in part.documents]
    vectors = np.concatenate([part.vectors for part in rows])
    places = {document.id: place for place, document in enumerate(documents)}
    answers = []
    for ids in found["ids"]:
        kept = [places[id_] for id_ in ids if id_ in places]
        answers.append(Rows([documents[place] for place in kept], vectors[kept], len(ids)))
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
    """Return the error of Chroma, or of its client, as one of ours.

    What is said about an argument is repeated. Any other message may hold text of a document.
    """
    if isinstance(error, SIFTError):
        return error
    if isinstance(error, NotFoundError):
        msg = f"{label} does not exist: it was deleted, or has another name"
        return CollectionNotFound(msg)
    problem = type(error).__name__
    if isinstance(error, RateLimitError | json.JSONDecodeError):  # the second: it broke off
        return StoreUnavailable(f"{label}: {problem}")
    if isinstance(error, InvalidArgumentError | ValueError | TypeError):
        if "embedding with dimension" in str(error):
            msg = f"{label}: {error}: open the store with the embeddings that filled it"
            return DimensionMismatch(msg)
        return InvalidFilter(f"{label}: {error}")
    return StoreError(f"{label}: {problem}")
