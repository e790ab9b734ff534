"""Read the dense vectors of Qdrant through `langchain_qdrant`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

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

Result = TypeVar("Result")


class QdrantAdapter:
    """Queries the client for points with their vectors."""

    search_arguments = ("filter", "search_params")

    def __init__(self, vectorstore: QdrantVectorStore) -> None:
        """Keep the store.

        Raises:
            StoreError: If the store searches sparse vectors alone.
        """
        self._store = vectorstore
        self.label = f"Qdrant collection {vectorstore.collection_name!r}"
        if vectorstore.retrieval_mode == RetrievalMode.SPARSE:
            raise StoreError(
                f"{self.label} is open with RetrievalMode.SPARSE, and SIFT compares dense vectors: "
                "put a SIFTReranker over its as_retriever(), or open it with RetrievalMode.DENSE "
                "if it has dense vectors"
            )

    @property
    def unread(self) -> str | None:
        """Name the sparse vectors of a hybrid store, which are not searched here."""
        if self._store.retrieval_mode != RetrievalMode.HYBRID:
            return None
        return (
            f"{self.label} is open with RetrievalMode.HYBRID, and its dense vectors alone are "
            "searched: pass second_retriever=store.as_retriever(search_kwargs={'k': 50}) for the "
            "sparse ones too, or put a SIFTReranker over store.as_retriever()"
        )

    def nearest(
        self,
        directions: Array,
        count: int,
        *,
        timeout: float,
        filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
    ) -> list[Rows]:
        """Search once for all directions."""
        condition = _filter_or_none(filter)
        requests = [
            models.QueryRequest(
                query=direction.tolist(),
                using=self._store.vector_name or None,
                limit=count,
                filter=condition,
                params=search_params,
                with_payload=True,
                with_vector=True,
            )
            for direction in directions
        ]
        try:
            answers = self._call(
                lambda: self._store.client.query_batch_points(
                    collection_name=self._store.collection_name,
                    requests=requests,
                    timeout=_whole_seconds(timeout),
                )
            )
        except (StoreUnavailable, CollectionNotFound):
            raise
        except (StoreError, ValueError) as error:
            self._check_vectors(directions.shape[1], error)
            raise
        return [self._rows(answer.points) for answer in answers]

    def page(
        self,
        cursor: Any,
        size: int,
        *,
        timeout: float,
        filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
    ) -> tuple[Rows, Any]:
        """Read the next rows; the cursor is the first point of the page."""
        del search_params  # of the index, which is not searched
        points, next_cursor = self._call(
            lambda: self._store.client.scroll(
                collection_name=self._store.collection_name,
                scroll_filter=_filter_or_none(filter),
                limit=size,
                offset=cursor,
                with_payload=True,
                with_vectors=True,
                timeout=_whole_seconds(timeout),
            )
        )
        return self._rows(points), next_cursor

    def by_ids(
        self, ids: Sequence[str], *, timeout: float, filter: models.Filter | None = None
    ) -> Rows:
        """Read the rows of these ids that pass the filter."""
        known: list[Any] = [id_ for id_ in map(_point_id, ids) if id_ is not None]
        if not known:
            return Rows([], np.empty((0, 0)), 0)
        condition = _filter_or_none(filter)
        has_id = models.HasIdCondition(has_id=known)
        points, _ = self._call(
            lambda: self._store.client.scroll(
                collection_name=self._store.collection_name,
                scroll_filter=models.Filter(must=[has_id, *([condition] if condition else [])]),
                limit=len(known),
                with_payload=True,
                with_vectors=True,
                timeout=_whole_seconds(timeout),
            )
        )
        return self._rows(points)

    def conjunction(self, first: models.Filter, second: models.Filter) -> models.Filter:
        """Return a filter that passes what both filters pass."""
        return models.Filter(must=[_check_filter(first), _check_filter(second)])

    def _call(self, operation: Callable[[], Result]) -> Result:
        try:
            return operation()
        except ResponseHandlingException as error:
            raise StoreUnavailable(f"{self.label}: {type(error).__name__}") from error
        except UnexpectedResponse as error:
            raise self._typed(error) from error
        except ValueError as error:  # of the local mode
            if str(error) == f"Collection {self._store.collection_name} not found":
                raise CollectionNotFound(f"{self.label} does not exist") from error
            raise

    def _check_vectors(self, dimensions: int, error: Exception) -> None:
        """Raise a clear error if the collection lacks the vectors, or has other dimensions."""
        name, collection = self._store.vector_name, self._store.collection_name
        description = self._call(lambda: self._store.client.get_collection(collection))
        vectors = description.config.params.vectors or {}
        named = vectors if isinstance(vectors, dict) else {"": vectors}
        if name not in named:
            raise StoreError(
                f"{self.label} has no dense vectors named {name!r}, only {sorted(named)}"
            ) from error
        if named[name].size != dimensions:
            raise DimensionMismatch(
                f"{self.label} has {named[name].size} dimensions, the query has {dimensions}: "
                "open the store with the embeddings that filled it"
            ) from error

    def _typed(self, error: UnexpectedResponse) -> SIFTError:
        kind = {404: CollectionNotFound, 429: StoreUnavailable, 503: StoreUnavailable}
        return kind.get(error.status_code or 0, StoreError)(
            f"{self.label}: the server answered {error.status_code} {error.reason_phrase}"
        )

    def _rows(self, points: Sequence[Any]) -> Rows:
        store = self._store
        kept = [
            point
            for point in points
            if (point.payload or {}).get(store.content_payload_key) is not None
            # A point need not have every vector of its collection.
            and self._vector(point) is not None
        ]
        documents = [
            Document(
                id=str(point.id),
                page_content=point.payload[store.content_payload_key],
                metadata={
                    **(point.payload.get(store.metadata_payload_key) or {}),
                    # As the store's own searches return them.
                    "_id": point.id,
                    "_collection_name": store.collection_name,
                },
            )
            for point in kept
        ]
        vectors = [self._vector(point) for point in kept]
        matrix = np.array(vectors, dtype=np.float64) if vectors else np.empty((0, 0))
        return Rows(documents, matrix, len(points))

    def _vector(self, point: Any) -> Any:
        named = isinstance(point.vector, dict)
        return point.vector.get(self._store.vector_name) if named else point.vector


def _point_id(id_: str) -> int | str | None:
    """Return the id of a point: a number or a UUID. None for any other text."""
    if id_.isascii() and id_.isdigit():
        return int(id_)
    with suppress(ValueError):
        return str(uuid.UUID(id_))
    return None


def _filter_or_none(filter: models.Filter | None) -> models.Filter | None:
    return None if filter is None else _check_filter(filter)


def _check_filter(filter: models.Filter) -> models.Filter:
    if isinstance(filter, models.Filter):
        return filter
    raise InvalidFilter(
        f"Qdrant filters with a qdrant_client.models.Filter, got {type(filter).__name__}"
    )


def _whole_seconds(timeout: float) -> int:
    return max(int(timeout), 1)
