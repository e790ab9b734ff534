"""The collections that are served, opened once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import chromadb
from chromadb.api.types import validate_where
from langchain_core.vectorstores import VectorStore

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, StoreTimeout
from langchain_sift.indexing.chroma_collections import (
    embeddings_for,
    is_url,
    open_collection,
    resolve_name,
    server_address,
)
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.retrieval.settings import join_required, noise_variance_for
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.serving.tenants import Tenant
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.adapters.chroma import where
from langchain_sift.stores.deadlines import within
from langchain_sift.stores.interface import adapter_for
from langchain_sift.ttft import LanguageModel

Opened = TypeVar("Opened")

_OPENING_SECONDS = 60.0  # Chroma's own client would wait for ever


def open_store(
    settings: ServingSettings, collection: str | None, load: Callable[[], LanguageModel]
) -> VectorStore:
    """Open a collection: of a folder for threads, of a server for coroutines.

    Args:
        settings: Which store, and which embeddings.
        collection: Its name; None: the only one.
        load: Returns the model that is served; not called before the collection is found.

    Raises:
        ArgumentError: If there is no such folder or collection, or it holds other embeddings.
        StoreUnavailable: If the server cannot be reached.
        StoreTimeout: If it does not answer.
        NotFittedError: If a model embeds and the collection does not hold its mean.
    """

    def named() -> tuple[str, str]:
        name = resolve_name(settings.store, collection)
        return name, embeddings_for(settings.store, name, settings.embeddings)

    # What is wrong with the store is told before a model is loaded, which takes long.
    name, wanted = _in_time(settings.store, named)
    found = load() if wanted == settings.model else load_embeddings(wanted)
    store = _in_time(settings.store, lambda: open_collection(settings.store, name, lambda _: found))
    if not is_url(settings.store):
        return store
    client = _in_time(settings.store, lambda: asyncio.run(_async_client(settings.store)))
    return AsyncChroma(client, store._collection_name, store.embeddings)


def _in_time(store: str, connect: Callable[[], Opened]) -> Opened:
    """Connect, or say that the server does not answer: Chroma's own client waits for ever."""
    try:
        found: Opened = within(_OPENING_SECONDS, connect)
    except TimeoutError as error:
        raise StoreTimeout(f"{store} did not answer within {_OPENING_SECONDS:g} s") from error
    return found


async def _async_client(url: str) -> Any:
    client: Any = await chromadb.AsyncHttpClient(**server_address(url))
    # Of this event loop, which ends here; `AsyncChroma` has its own in each.
    await client._server._cleanup()
    return client


def retriever_of(settings: ServingSettings, tenant: Tenant, store: VectorStore) -> SIFTRetriever:
    """Return what retrieves for a tenant; no call of it sees what the tenant may not.

    Raises:
        ArgumentError: If the tenant's filter is none, or does not say what is allowed.
    """
    condition = dict(tenant.filter) if tenant.filter else None
    if condition is not None:
        try:
            validate_where(where(condition))  # type: ignore[arg-type]
            join_required(condition, None, adapter_for(store))
        except ValueError as error:
            raise ArgumentError(f"the filter of tenant {tenant.name!r}: {error}") from error
    return SIFTRetriever(
        vectorstore=store,
        k=settings.k,
        fetch_k=settings.fetch_k,
        noise_variance=noise_variance_for(store.embeddings, settings.noise_variance),
        stopping_alpha=settings.stopping_alpha,
        require_filter=condition is not None,
        search_kwargs={} if condition is None else {"filter": condition},
    )
