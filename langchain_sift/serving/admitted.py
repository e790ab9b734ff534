"""Define a request that was admitted: its tenant's models, and its room in the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from langchain_sift.chat_models import ChatTestTimeFineTuned
from langchain_sift.errors import EngineOverloaded
from langchain_sift.llms import TestTimeFineTunedLLM
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.options import NEW_SESSION
from langchain_sift.serving.sessions import CallSession, Sessions
from langchain_sift.serving.tenants import Tenant
from langchain_sift.ttft import Reservation

_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class TenantView:
    """The retriever and the models of one tenant; all tenants share one engine."""

    tenant: Tenant
    retriever: SIFTRetriever
    chat: ChatTestTimeFineTuned
    llm: TestTimeFineTunedLLM


class AdmittedRequest:
    """A request with a reservation in the engine; a context manager that ends it."""

    def __init__(
        self,
        view: TenantView,
        sessions: Sessions,
        reservation: Reservation,
        on_end: Callable[[], None],
    ) -> None:
        """Keep the reservation.

        Args:
            view: The retriever and the models of the request's tenant.
            sessions: The sessions of all tenants.
            reservation: From `Engine.admission`.
            on_end: Called once, when the request ends.
        """
        self.view = view
        self.sessions = sessions
        self._reservation: Reservation | None = reservation
        self._on_end: Callable[[], None] | None = on_end

    async def reserve(self, deadline: float) -> Reservation:
        """Return room for one answer; the engine releases it when the answer is complete.

        The first answer gets the reservation of the request; another waits for room.

        Args:
            deadline: By `time.perf_counter`.

        Raises:
            EngineOverloaded: If there is no room before the deadline.
        """
        reservation, self._reservation = self._reservation, None
        while reservation is None:
            try:
                reservation = self.view.chat.engine.admission.admit(0)
            except EngineOverloaded:
                if time.perf_counter() >= deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
        return reservation

    def session(self, session_id: str | None) -> CallSession:
        """Return the session of a call.

        Args:
            session_id: `ttft.session` of the request.

        Raises:
            RequestRejected: If there is no such session, or the server keeps none.
        """
        tenant, sessions = self.view.tenant.name, self.sessions
        if session_id == NEW_SESSION:
            sessions.check_room(self.view.chat.engine.adapter_bytes)
            return CallSession(sessions, tenant, is_new=True)
        if session_id is None:
            return CallSession(sessions, tenant)
        session = sessions.get(tenant, session_id, event="answered")
        return CallSession(sessions, tenant, session)

    def end(self) -> None:
        """Release the reservation, unless it was taken; further calls do nothing."""
        if self._reservation is not None:
            self._reservation.release()
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    def __enter__(self) -> Self:
        """Return the request."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the request."""
        self.end()
