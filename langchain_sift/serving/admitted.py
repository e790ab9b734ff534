"""Define a request that was admitted: its tenant's models, its room in the engine, its session."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from langchain_sift.chat_models import ChatTestTimeFineTuned
from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import EngineOverloaded
from langchain_sift.llms import TestTimeFineTunedLLM
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.error_responses import RequestRejected
from langchain_sift.serving.options import NEW_SESSION
from langchain_sift.serving.session_store import Session, Sessions
from langchain_sift.serving.tenants import Tenant
from langchain_sift.ttft import Reservation, TrainedAdapter

_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class TenantView:
    """The retriever, the models and the embeddings of one tenant; all tenants share one engine."""

    tenant: Tenant
    retriever: SIFTRetriever
    chat: ChatTestTimeFineTuned
    llm: TestTimeFineTunedLLM
    embeddings: HiddenStateEmbeddings


@dataclass(slots=True)
class CallSession:
    """The session of one call: the one that answers, a new one, or none."""

    sessions: Sessions
    tenant: str
    """Name of the tenant of the call."""

    session: Session | None = None
    is_new: bool = False
    """True if the adapter of the call is kept."""

    @property
    def adapter(self) -> TrainedAdapter | None:
        """The adapter that answers. None means that the call trains, or has none."""
        return None if self.session is None else self.session.adapter

    def id_of(self, trained: TrainedAdapter | None, documents: Sequence[str | None]) -> str | None:
        """Return the id of the session; make it if it is new and there is an adapter.

        Args:
            trained: The adapter that the call trained. None means that there is none.
            documents: Ids of the documents that it was trained on.
        """
        if self.session is None and self.is_new and trained is not None:
            self.session = self.sessions.add(self.tenant, trained, tuple(documents))
        return None if self.session is None else self.session.id


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
        self._reservation = reservation
        self._parts: list[Reservation] = []
        self._begun, self._expected = 0, math.inf
        self._on_end: Callable[[], None] | None = on_end

    def expect(self, answers: int) -> None:
        """Give up the place of the request once the last of this many answers has its own.

        A client that reads a stream slowly then keeps no place after the answer is complete.
        """
        self._expected = answers

    async def reserve(self, deadline: float, tokens: int = 0) -> Reservation:
        """Return room for one answer; the engine releases it when the answer is complete.

        One answer at a time has the place of the request; another waits for room. Only the first
        answer is refused at once.

        Args:
            deadline: By `time.perf_counter`.
            tokens: Maximum number of tokens to train on.

        Raises:
            EngineOverloaded: If there is no room for the first, or for another before the deadline.
        """
        admission = self.view.chat.engine.admission
        is_first = self._begun == 0
        self._begun += 1
        is_last = self._begun >= self._expected
        while True:
            try:
                part = admission.admit(tokens, part_of=self._reservation)
            except EngineOverloaded:
                if is_first or time.perf_counter() >= deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            else:
                self._parts.append(part)
                if is_last:
                    self._reservation.release()
                return part

    def session(self, session_id: str | None) -> CallSession:
        """Return the session of a call.

        Args:
            session_id: `ttft.session` of the request.

        Raises:
            RequestRejected: If there is no such session, or the server keeps none.
        """
        tenant, sessions = self.view.tenant.name, self.sessions
        if session_id is None:
            return CallSession(sessions, tenant)
        if session_id == NEW_SESSION:
            self.check_room_for_sessions(1)
            return CallSession(sessions, tenant, is_new=True)
        with _of_session():
            session = sessions.use(tenant, session_id, event="answered")
        return CallSession(sessions, tenant, session)

    def check_room_for_sessions(self, count: int) -> None:
        """Check that this many new sessions fit at all.

        Raises:
            RequestRejected: If they do not; see `Sessions.check_room`.
        """
        with _of_session():
            self.sessions.check_room(self.view.chat.engine.adapter_bytes, count)

    def end(self) -> None:
        """Release all room, also of answers that never began; further calls do nothing."""
        for reservation in (self._reservation, *self._parts):
            reservation.release()
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    def __enter__(self) -> Self:
        """Return the request."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the request."""
        self.end()


@contextmanager
def _of_session() -> Iterator[None]:
    """Name the option of the request that the server rejects in the block."""
    try:
        yield
    except RequestRejected as error:
        raise RequestRejected(replace(error.failure, param="ttft.session")) from error
