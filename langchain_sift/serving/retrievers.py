"""Open the collections, and make the retriever of each tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from chromadb.api.types import validate_where
from langchain_core.vectorstores import VectorStore

from langchain_sift.errors import ArgumentError, StoreTimeout
from langchain_sift.indexing.chroma_clients import aconnect
from langchain_sift.indexing.chroma_collections import (
    embeddings_for,
    open_collection,
    resolve_name,
)
from langchain_sift.indexing.named_objects import load_embeddings, load_embeddings_of
from langchain_sift.retrieval.filters import narrow_filter
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.serving.tenants import Tenant
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.adapters.chroma_filters import where
from langchain_sift.stores.deadlines import within
from langchain_sift.stores.interface import adapter_for
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.load_settings import LoadSettings

T = TypeVar("T")

_CONNECT_SECONDS = 60.0


def open_store(
    settings: ServingSettings, collection: str | None, load: Callable[[], LanguageModel]
) -> VectorStore:
    """Open a collection; a collection of a server gets an asynchronous client.

    Args:
        settings: The store and the embeddings.
        collection: Name of the collection. None means the only one of the store.
        load: Returns the served model; called only after the collection was found.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or it was filled with other
            embeddings.
        StoreUnavailable: If the server cannot be reached.
        StoreTimeout: If the server does not respond.
        NotFittedError: If a model embeds and its mean is not in the collection's metadata.
    """
    location = ChromaLocation.of(settings.store)

    def find() -> tuple[str, str]:
        name = resolve_name(location, collection)
        return name, embeddings_for(location, name, settings.embeddings)

    # Errors of the store come first: loading a model takes long.
    name, embeddings = _with_deadline(location, find)
    loading = LoadSettings(settings.device, settings.dtype, settings.quantization)
    named = load_embeddings if settings.embeddings else partial(load_embeddings_of, name)
    model = load() if embeddings == settings.model else named(embeddings, loading)
    store = _with_deadline(location, lambda: open_collection(location, name, lambda _: model))
    if location.url is None:
        return store
    tenant, database = store._client.tenant, store._client.database
    client = _with_deadline(location, lambda: asyncio.run(aconnect(location, tenant, database)))
    return AsyncChroma(client, store._collection_name, store.embeddings)


def _with_deadline(location: ChromaLocation, connect: Callable[[], T]) -> T:
    """Call `connect` with a deadline, since Chroma's client has none.

    Raises:
        StoreTimeout: If the deadline has passed.
    """
    try:
        result: T = within(_CONNECT_SECONDS, connect)
    except TimeoutError as error:
        raise StoreTimeout(f"{location} did not respond within {_CONNECT_SECONDS:g} s") from error
    return result


def make_retriever(settings: ServingSettings, tenant: Tenant, store: VectorStore) -> SIFTRetriever:
    """Return a retriever that returns only documents of the tenant, whatever a call asks for.

    Raises:
        ArgumentError: If the tenant's filter is invalid, or does not restrict documents by a
            positive condition.
    """
    condition = dict(tenant.filter) if tenant.filter else None
    if condition is not None:
        try:
            validate_where(where(condition))  # type: ignore[arg-type]
            narrow_filter(condition, None, adapter_for(store))
        except ValueError as error:
            raise ArgumentError(f"the filter of tenant {tenant.name!r}: {error}") from error
    return SIFTRetriever(
        vectorstore=store,
        k=settings.k,
        fetch_k=settings.fetch_k,
        kernel=settings.kernel,
        length_scale=settings.length_scale,
        noise_variance=settings.noise_variance,
        stopping_alpha=settings.stopping_alpha,
        require_filter=condition is not None,
        search_kwargs={} if condition is None else {"filter": condition},
    )
