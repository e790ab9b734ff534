"""The model that is served: loaded once, with a view of it for each tenant."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Self

from langchain_core.vectorstores import VectorStore

from langchain_sift import ChatTestTimeFineTuned, SIFTRetriever, TestTimeFineTunedLLM
from langchain_sift.errors import (
    EngineError,
    EngineOverloaded,
    RequestCancelled,
    SIFTError,
    StoreError,
)
from langchain_sift.serving.error_responses import Failure, Refused
from langchain_sift.serving.requests import Health
from langchain_sift.serving.retrievers import open_store, retriever_of
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.serving.tenants import Tenant
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.locking import held
from langchain_sift.ttft import AdapterCache, Engine, EngineStatus, Reservation, load_language_model

_CHECKING_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 1e-3
_LONGEST_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class View:
    """What one tenant talks to: the same engine as all others, its own documents."""

    tenant: Tenant
    retriever: SIFTRetriever
    chat: ChatTestTimeFineTuned
    llm: TestTimeFineTunedLLM


class Admitted:
    """A request that has a place, until it is answered; ending it twice is ending it once."""

    def __init__(self, view: View, reservation: Reservation, on_end: Callable[[], None]) -> None:
        """Hold a place for the tenant of this view."""
        self.view = view
        self._reservation: Reservation | None = reservation
        self._on_end: Callable[[], None] | None = on_end

    def hand_over(self) -> Reservation | None:
        """Return the place for the engine, which gives it back when the request is done."""
        reservation, self._reservation = self._reservation, None
        return reservation

    def end(self) -> None:
        """Make room for the tenant's next request, and for others' if the engine has not this."""
        if self._reservation is not None:
            self._reservation.release()
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.end()


class Service:
    """What answers requests; knows nothing of HTTP. Made by `open_service`."""

    def __init__(
        self, settings: ServingSettings, views: Mapping[str, View], resources: ExitStack
    ) -> None:
        """Serve these views.

        Args:
            settings: What they were made by.
            views: By the tenants' names; at least one.
            resources: Closed with the service.
        """
        self.settings = settings
        self.created = int(time.time())
        self._views = dict(views)
        self._resources = resources
        self._closed = False
        self._at_once: Counter[str] = Counter()
        self._seconds = 1.0  # of an answer, lately

    @property
    def engine(self) -> Engine:
        """The one that all tenants share.

        Raises:
            RequestCancelled: If the service is closed.
        """
        for view in self._views.values():
            return view.chat.engine
        raise RequestCancelled("the service is closed")

    def engine_status(self) -> EngineStatus:
        """Return what the engine is doing."""
        return self.engine.status()

    def view_of(self, tenant: Tenant) -> View:
        """Return what a tenant talks to."""
        return self._views[tenant.name]

    def admit(self, tenant: Tenant) -> Admitted:
        """Give a request a place; at once, or not at all.

        Raises:
            Refused: If the tenant has as many as it may.
            EngineOverloaded: If there is no room for anybody.
        """
        most = tenant.max_requests
        if most is not None and self._at_once[tenant.name] >= most:
            raise Refused(
                Failure(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"{most} of your requests are being answered, as many as you may have at once",
                    "rate_limit_exceeded",
                    headers={"Retry-After": str(self.retry_after())},
                )
            )
        reservation = self.engine.admission.admit(0)
        self._at_once[tenant.name] += 1
        began = time.perf_counter()

        def ended() -> None:
            self._at_once[tenant.name] -= 1
            self._seconds += 0.1 * (time.perf_counter() - began - self._seconds)

        return Admitted(self.view_of(tenant), reservation, ended)

    def retry_after(self) -> int:
        """Return in how many seconds there may be room: when a batch is likely to be done."""
        return max(1, min(_LONGEST_RETRY_SECONDS, round(self._seconds)))

    async def check_health(self) -> Health:
        """Let the engine verify that its slots are at rest, where it has nothing else to do.

        A busy engine verifies them after each request anyway, and is not asked.
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
        if status.admitted:
            return "busy"
        try:
            async with asyncio.timeout(_CHECKING_SECONDS):
                async for _ in self.engine.submit(self.engine.request(())):
                    pass
                # What came of it is told before the slots are verified.
                while (now := self.engine.status()).at_work and not now.admitted:
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except EngineOverloaded:
            return "busy"
        except (EngineError, TimeoutError):
            return "unavailable"
        return "unavailable" if now.quarantined > status.quarantined else "ok"

    async def _store_health(self) -> Literal["ok", "unavailable"]:
        if self._closed:
            return "unavailable"
        store = next(iter(self._views.values())).retriever.vectorstore
        if isinstance(store, AsyncChroma):
            try:
                await store.aheartbeat(timeout=_CHECKING_SECONDS)
            except StoreError:
                return "unavailable"
        return "ok"

    async def aclose_connections(self) -> None:
        """Close the connections of the running event loop."""
        for view in self._views.values():
            if isinstance(view.retriever.vectorstore, AsyncChroma):
                await view.retriever.vectorstore.aclose()

    def close(self) -> None:
        """Refuse what comes, cancel what is there, and let go of the store."""
        if not self._closed:
            self._closed = True
            self.engine.close()
            self._resources.close()
            # FastAPI keeps the functions of an application, and so this; not the model.
            self._views.clear()

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def open_service(settings: ServingSettings) -> Service:
    """Open the store and load the model.

    Raises:
        ArgumentError: If there is no such folder, collection or setting.
        StoreInUse: If another process has the folder open.
        StoreError: If the store's server cannot be used.
        ModelLoadError: If there is no such model.
    """
    with ExitStack() as stack:
        stack.enter_context(held(settings.store, alone=True))
        load = functools.cache(lambda: load_language_model(settings.model, **settings.loading()))
        stores: dict[str | None, VectorStore] = {}
        views: dict[str, View] = {}
        for tenant in settings.tenants.members:
            collection = tenant.collection or settings.collection
            if collection not in stores:
                stores[collection] = open_store(settings, collection, load)
            views[tenant.name] = _view(settings, tenant, stores[collection])
        return Service(settings, views, stack.pop_all())


def _view(settings: ServingSettings, tenant: Tenant, store: VectorStore) -> View:
    retriever = retriever_of(settings, tenant, store)
    cache = None
    if settings.adapter_cache is not None:
        cache = AdapterCache(settings.adapter_cache, tenant=tenant.name)
    shared = {
        "model": settings.model,
        "retriever": retriever,
        "finetune": settings.finetune,
        "limits": settings.limits,
        "max_tokens": settings.max_tokens,
        "timeout": settings.timeout,
        "adapter_cache": cache,
        **settings.loading(),
    }
    chat, llm = ChatTestTimeFineTuned(**shared), TestTimeFineTunedLLM(**shared)
    if chat.engine is not llm.engine:  # the first request must not wait for it either
        raise SIFTError("the faces of one model have two engines")
    return View(tenant, retriever, chat, llm)
