"""Load the model once, and give each tenant its retriever and limits."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Literal, Self, TypeVar

from langchain_core.vectorstores import VectorStore

from langchain_sift.chat_models import ChatTestTimeFineTuned
from langchain_sift.config import fine_tunes
from langchain_sift.errors import (
    EngineError,
    EngineOverloaded,
    MemoryExceeded,
    RequestCancelled,
    SIFTError,
    StoreError,
)
from langchain_sift.language_models.follow_ups import check_query
from langchain_sift.llms import TestTimeFineTunedLLM
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.admitted import AdmittedRequest, TenantView
from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.memory import session_limits
from langchain_sift.serving.responses import Health
from langchain_sift.serving.retrievers import make_retriever, open_store
from langchain_sift.serving.session_store import Sessions
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.serving.tenants import Tenant
from langchain_sift.serving.text_embeddings import served_embeddings
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.locking import locked
from langchain_sift.ttft import (
    AdapterCache,
    Engine,
    EngineStatus,
    LanguageModel,
    load_language_model,
)
from langchain_sift.ttft.training.gradient_check import check_gradients

_HEALTH_CHECK_SECONDS = 5.0
_POLL_SECONDS = 1e-3
_MAX_RETRY_SECONDS = 60

FineTunedModel = TypeVar("FineTunedModel", ChatTestTimeFineTuned, TestTimeFineTunedLLM)


class Service:
    """The engine, the tenants' views and their limits; `open_service` makes one."""

    def __init__(
        self, settings: ServingSettings, views: Mapping[str, TenantView], resources: ExitStack
    ) -> None:
        """Serve the views.

        Args:
            settings: Settings of the service.
            views: The views by the names of their tenants; at least one.
            resources: Closed with the service.
        """
        self.settings = settings
        self._views = dict(views)
        self.created = int(time.time())
        self.sessions = Sessions(session_limits(settings, self.engine))
        """The adapters that are kept for later requests; they end with the service."""
        self._resources = resources
        self._closed = False
        self._active: Counter[str] = Counter()  # requests of each tenant
        self._seconds = 1.0  # duration of a request, a moving average

    @property
    def engine(self) -> Engine:
        """The engine that all tenants share.

        Raises:
            RequestCancelled: If the service is closed.
        """
        for view in self._views.values():
            return view.chat.engine
        raise RequestCancelled("the service is closed")

    def engine_status(self) -> EngineStatus:
        """Return the state of the engine."""
        return self.engine.status()

    def view_of(self, tenant: Tenant) -> TenantView:
        """Return the view of a tenant."""
        return self._views[tenant.name]

    def admit(self, tenant: Tenant) -> AdmittedRequest:
        """Reserve capacity for a request, without waiting.

        Raises:
            RequestRejected: If the tenant has its maximum number of requests.
            EngineOverloaded: If the engine is at capacity.
        """
        limit = tenant.max_requests
        if limit is not None and self._active[tenant.name] >= limit:
            raise RequestRejected(
                Failure(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"at most {limit} of your requests are answered at once: try again later",
                    "rate_limit_exceeded",
                    headers={"Retry-After": str(self.retry_after())},
                )
            )
        reservation = self.engine.admission.admit(0)
        self._active[tenant.name] += 1
        start = time.perf_counter()

        def on_end() -> None:
            self._active[tenant.name] -= 1
            self._seconds += 0.1 * (time.perf_counter() - start - self._seconds)

        return AdmittedRequest(self.view_of(tenant), self.sessions, reservation, on_end)

    def retry_after(self) -> int:
        """Return the seconds until a request probably ends, between 1 and 60."""
        return max(1, min(_MAX_RETRY_SECONDS, round(self._seconds)))

    async def check_health(self) -> Health:
        """Check the store, and let an idle engine verify its slots.

        A busy engine verifies its slots after each request anyway.
        """
        engine = await self._engine_health()
        store = await self._store_health()
        if engine == "unavailable":
            return Health(status="unavailable", engine=engine, store=store)
        return Health(status="ok" if store == "ok" else "degraded", engine=engine, store=store)

    async def _engine_health(self) -> Literal["ok", "busy", "unavailable"]:
        if self._closed:
            return "unavailable"
        status = self.engine.status()
        if status.idle_seconds > self.settings.stall_seconds:
            return "unavailable"
        if status.admitted:
            return "busy"
        try:
            async with asyncio.timeout(_HEALTH_CHECK_SECONDS):
                async for _ in self.engine.submit(self.engine.request(())):
                    pass
                # The engine reports the outcome before it verifies the slots.
                while (now := self.engine.status()).at_work and not now.admitted:
                    await asyncio.sleep(_POLL_SECONDS)
        except EngineOverloaded:
            return "busy"
        except (EngineError, MemoryExceeded, TimeoutError):  # no request fits into the memory
            return "unavailable"
        return "unavailable" if now.quarantined > status.quarantined else "ok"

    async def _store_health(self) -> Literal["ok", "unavailable"]:
        if self._closed:
            return "unavailable"
        store = next(iter(self._views.values())).retriever.vectorstore
        if isinstance(store, AsyncChroma):
            try:
                await store.aheartbeat(timeout=_HEALTH_CHECK_SECONDS)
            except StoreError:
                return "unavailable"
        return "ok"

    async def aclose_connections(self) -> None:
        """Close the connections of the running event loop."""
        for view in self._views.values():
            if isinstance(view.retriever.vectorstore, AsyncChroma):
                await view.retriever.vectorstore.aclose()

    def close(self) -> None:
        """Cancel all requests, reject new ones, and release the store."""
        if not self._closed:
            self._closed = True
            self.engine.close()
            self._resources.close()
            # FastAPI keeps the application, and so this service, alive: release the model.
            self._views.clear()
            self.sessions.clear()

    def __enter__(self) -> Self:
        """Return the service."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the service."""
        self.close()


def open_service(settings: ServingSettings) -> Service:
    """Open the store and load the model.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or a setting is invalid.
        StoreInUse: If another process has the folder open.
        StoreError: If the store's server cannot be used.
        ModelLoadError: If the model cannot be loaded.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(str(settings.store), exclusive=True))
        load = functools.cache(functools.partial(_load_model, settings))
        stores: dict[str | None, VectorStore] = {}
        views: dict[str, TenantView] = {}
        for tenant in settings.tenants.members:
            cache = None
            if settings.adapter_cache is not None:
                cache = AdapterCache(settings.adapter_cache, tenant=tenant.name)
            collection = tenant.collection or settings.collection
            if collection not in stores:
                stores[collection] = open_store(settings, collection, load)
            views[tenant.name] = _view(settings, tenant, stores[collection], cache)
        return Service(settings, views, stack.pop_all())


def _load_model(settings: ServingSettings) -> LanguageModel:
    return load_language_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
    )


def _view(
    settings: ServingSettings, tenant: Tenant, store: VectorStore, cache: AdapterCache | None
) -> TenantView:
    retriever = make_retriever(settings, tenant, store)
    chat = _model(ChatTestTimeFineTuned, settings, retriever, cache)
    chat = chat.model_copy(update={"retrieval_query": check_query(settings.retrieval_query)})
    llm = _model(TestTimeFineTunedLLM, settings, retriever, cache)
    # This also loads the engine before the first request.
    if chat.engine is not llm.engine:
        raise SIFTError("the chat model and the text model have different engines")
    if fine_tunes(settings.mode):
        check_gradients(chat.engine.language_model, settings.finetune.target_modules)
    embeddings = served_embeddings(chat.engine.language_model, store.embeddings)
    return TenantView(tenant, retriever, chat, llm, embeddings)


def _model(
    kind: type[FineTunedModel],
    settings: ServingSettings,
    retriever: SIFTRetriever,
    cache: AdapterCache | None,
) -> FineTunedModel:
    return kind(
        model=settings.model,
        retriever=retriever,
        finetune=settings.finetune,
        limits=settings.limits,
        max_tokens=settings.max_tokens,
        timeout=settings.timeout,
        adapter_cache=cache,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
    )
