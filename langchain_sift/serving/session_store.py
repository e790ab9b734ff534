"""Keep trained adapters in memory, so that later requests answer with them without training."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus

from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.settings import SessionLimits
from langchain_sift.ttft import TrainedAdapter

EVENTS = ("learned", "extended", "answered", "missing", "expired", "evicted", "deleted")
"""What may happen to a session, for the metrics."""

_GB = 1e9
_NOT_FOUND = Failure(
    HTTPStatus.NOT_FOUND,
    "there is no such session: it has expired, was dropped for lack of memory, or never existed. "
    "Learn the documents again",
    "session_not_found",
)
_KEEPS_NONE = Failure(
    HTTPStatus.NOT_FOUND,
    "this server keeps no sessions: each request must train anew",
    "sessions_unavailable",
)
_CHANGED = Failure(
    HTTPStatus.CONFLICT,
    "the session has learned other documents meanwhile: send the request again",
    "session_changed",
)


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """An adapter that a tenant's requests answer with."""

    id: str
    adapter: TrainedAdapter
    documents: tuple[str | None, ...]
    """Ids of the documents that it has learned, in order, repeats included."""

    steps: int
    """Number of gradient steps so far."""

    tokens: int
    """Number of tokens trained on so far."""

    began: float
    """Time of its first learning, by the clock of `Sessions`."""

    used: float
    """Time of its last use."""

    @property
    def nbytes(self) -> int:
        """Number of bytes of the adapter."""
        return self.adapter.weights.nbytes


class Sessions:
    """The sessions of all tenants, in memory: they end with the process. Thread-safe.

    Beyond a limit, the tenant with the most memory loses its least recently used session. So a
    tenant that makes many sessions drops its own, and never those of a tenant with fewer. Of
    tenants with equal memory, the one whose session was used least recently loses it. A session
    that was just added is never dropped.
    """

    def __init__(self, limits: SessionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any session.

        Args:
            limits: Number, memory and lifetime.
            clock: Returns the time in seconds.
        """
        self.limits = limits
        self.events: Counter[str] = Counter()
        """Number of events of each kind since the start."""
        self._clock = clock
        self._lock = threading.Lock()
        # The sessions of each tenant by id, the least recently used first, so that a lookup sees
        # only the sessions of one tenant.
        self._of_tenants: dict[str, OrderedDict[str, Session]] = {}

    def check_room(self, nbytes: int, count: int = 1) -> None:
        """Check that the new sessions of one request fit at all.

        Args:
            nbytes: Number of bytes of the adapter of each.
            count: Number of them.

        Raises:
            RequestRejected: With status 404 if the server keeps no sessions, and 400 if it keeps
                none of this size, or not as many.
        """
        limits = self.limits
        if limits.max_sessions >= count and limits.max_memory_gb * _GB >= nbytes * count:
            return
        if limits.keep_none:
            raise RequestRejected(_KEEPS_NONE)
        most = min(limits.max_sessions, int(limits.max_memory_gb * _GB / nbytes))
        message = (
            f"the server keeps at most {most} sessions, and this request makes {count}: send "
            "fewer prompts"
            if most
            else f"a session takes {nbytes / _GB:.3g} GB, more than this server's memory for "
            f"sessions ({limits.max_memory_gb:g} GB)"
        )
        raise RequestRejected(Failure(HTTPStatus.BAD_REQUEST, message, "sessions_unavailable"))

    def add(
        self, tenant: str, adapter: TrainedAdapter, documents: tuple[str | None, ...]
    ) -> Session:
        """Keep an adapter under a new id, which cannot be guessed.

        Raises:
            RequestRejected: As `check_room` does.
        """
        self.check_room(adapter.weights.nbytes)
        now, training = self._clock(), adapter.training
        session = Session(
            f"ttft-{secrets.token_urlsafe(24)}",
            adapter,
            documents,
            training.steps,
            training.tokens,
            began=now,
            used=now,
        )
        with self._lock:
            self._drop_expired()
            self._of_tenants.setdefault(tenant, OrderedDict())[session.id] = session
            self.events["learned"] += 1
            self._drop_beyond_limits(session)
        return session

    def get(self, tenant: str, session_id: str) -> Session:
        """Return a tenant's session. This does not count as a use.

        Args:
            tenant: Name of the tenant.
            session_id: The id.

        Raises:
            RequestRejected: With status 404, if the tenant has no such session: one and the same
                response whether it has expired, is another tenant's, or never existed.
        """
        with self._lock:
            return self._find(tenant, session_id)

    def use(self, tenant: str, session_id: str, *, event: str | None = None) -> Session:
        """Return a tenant's session, and begin its idle time anew.

        Args:
            tenant: Name of the tenant.
            session_id: The id.
            event: Kind of the use, for the metrics. None means that it is counted later.

        Raises:
            RequestRejected: With status 404, as `get` does.
        """
        with self._lock:
            session = self._find(tenant, session_id)
            if event is not None:
                self.events[event] += 1
            return self._use(tenant, session)

    def extend(
        self,
        tenant: str,
        start: Session,
        adapter: TrainedAdapter,
        documents: tuple[str | None, ...],
    ) -> Session:
        """Replace the adapter of a session by one that was trained on from it.

        Args:
            tenant: Name of the tenant.
            start: The session when the training began.
            adapter: The new adapter.
            documents: Ids of the documents that it has learned in addition.

        Raises:
            RequestRejected: With status 404 if the session has ended meanwhile, and 409 if it has
                learned other documents. It is as it was.
        """
        with self._lock:
            session = self._find(tenant, start.id)
            if session.adapter is not start.adapter:
                raise RequestRejected(_CHANGED)
            session = replace(
                session,
                adapter=adapter,
                documents=(*session.documents, *documents),
                steps=session.steps + adapter.training.steps,
                tokens=session.tokens + adapter.training.tokens,
            )
            self.events["extended"] += 1
            return self._use(tenant, session)

    def remove(self, tenant: str, session_id: str) -> None:
        """End a session.

        Raises:
            RequestRejected: With status 404, as `get` does.
        """
        with self._lock:
            self._drop(tenant, self._find(tenant, session_id).id, "deleted")

    def seconds_left(self, session: Session) -> float:
        """Return the seconds after which a session expires if it is not used."""
        return self._end(session) - self._clock()

    @property
    def count(self) -> int:
        """Number of sessions."""
        with self._lock:
            self._drop_expired()
            return sum(map(len, self._of_tenants.values()))

    @property
    def nbytes(self) -> int:
        """Number of bytes of all adapters."""
        with self._lock:
            self._drop_expired()
            return sum(map(_nbytes, self._of_tenants.values()))

    def clear(self) -> None:
        """End all sessions."""
        with self._lock:
            self._of_tenants.clear()

    def _find(self, tenant: str, session_id: str) -> Session:
        self._drop_expired()
        session = self._of_tenants.get(tenant, OrderedDict()).get(session_id)
        if session is None:
            self.events["missing"] += 1
            raise RequestRejected(_KEEPS_NONE if self.limits.keep_none else _NOT_FOUND)
        return session

    def _use(self, tenant: str, session: Session) -> Session:
        """Store a session as the one that was used last."""
        session = replace(session, used=self._clock())
        self._of_tenants[tenant][session.id] = session
        self._of_tenants[tenant].move_to_end(session.id)
        return session

    def _end(self, session: Session) -> float:
        limits = self.limits
        return min(session.used + limits.idle_seconds, session.began + limits.total_seconds)

    def _drop_expired(self) -> None:
        now = self._clock()
        expired = [
            (tenant, session.id)
            for tenant, own in self._of_tenants.items()
            for session in own.values()
            if self._end(session) <= now
        ]
        for tenant, session_id in expired:
            self._drop(tenant, session_id, "expired")

    def _drop_beyond_limits(self, new: Session) -> None:
        """Drop sessions until the limits are met, but never the new one, which fits alone."""
        while self._is_beyond_limits():
            oldest = {name: next(iter(own.values())) for name, own in self._of_tenants.items()}
            heaviest = max(
                (name for name, session in oldest.items() if session is not new),
                key=lambda name: (_nbytes(self._of_tenants[name]), -oldest[name].used),
            )
            self._drop(heaviest, oldest[heaviest].id, "evicted")

    def _is_beyond_limits(self) -> bool:
        count = sum(map(len, self._of_tenants.values()))
        nbytes = sum(map(_nbytes, self._of_tenants.values()))
        return count > self.limits.max_sessions or nbytes > self.limits.max_memory_gb * _GB

    def _drop(self, tenant: str, session_id: str, event: str) -> None:
        own = self._of_tenants.get(tenant, OrderedDict())
        if own.pop(session_id, None) is not None:
            self.events[event] += 1
        if not own:
            self._of_tenants.pop(tenant, None)


def _nbytes(sessions: OrderedDict[str, Session]) -> int:
    return sum(session.nbytes for session in sessions.values())
