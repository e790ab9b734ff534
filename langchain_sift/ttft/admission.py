"""Admit requests to an engine, up to its limits."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType

from langchain_sift.config import Limits
from langchain_sift.errors import EngineOverloaded


class Admission:
    """The reservations of all requests that are not done. Thread-safe; never waits."""

    def __init__(self, limits: Limits) -> None:
        """Start without any reservation."""
        self._limits = limits
        # Reentrant: a finalizer that releases a reservation may run inside any of these methods.
        self._lock = threading.RLock()
        # The references are weak, so a reservation that an interrupt dropped is released, and
        # there is no counter that could stay wrong.
        self.reserved: weakref.WeakKeyDictionary[Reservation, int] = weakref.WeakKeyDictionary()
        """Number of training tokens of each reservation."""

    @property
    def tokens(self) -> int:
        """Number of training tokens of all reservations."""
        with self._lock:
            return sum(self.reserved.values())

    def admit(self, tokens: int) -> Reservation:
        """Reserve room for one request.

        Args:
            tokens: Maximum number of tokens that the request will train on.

        Raises:
            EngineOverloaded: If a limit is reached. Nothing was reserved.
        """
        reservation = Reservation(self)
        with self._lock:
            requests = len(self.reserved)
            if requests >= self._limits.max_requests:
                raise EngineOverloaded(
                    f"{requests} requests are admitted, as many as max_requests allows: "
                    "try again later, or raise Limits.max_requests"
                )
            self._check(tokens, others=requests > 0)
            self.reserved[reservation] = tokens
        return reservation

    def _check(self, tokens: int, *, others: bool) -> None:
        # A request larger than the limit is admitted if it is the only one.
        if others and self.tokens + tokens > self._limits.max_tokens:
            raise EngineOverloaded(
                f"{self.tokens} training tokens are admitted, and {tokens} more would exceed "
                f"max_tokens ({self._limits.max_tokens}): try again later, train on less, or "
                "raise Limits.max_tokens"
            )


class Reservation:
    """Room for one request, until it is released. Releasing it twice does no harm."""

    def __init__(self, admission: Admission) -> None:
        """Belong to an admission, which counts the reservation."""
        self._admission = admission

    def resize(self, tokens: int) -> None:
        """Change the number of training tokens that are reserved.

        Raises:
            EngineOverloaded: If there is no room for more tokens. Nothing has changed.
        """
        admission = self._admission
        with admission._lock:
            if self not in admission.reserved:
                return
            more = tokens - admission.reserved[self]
            if more > 0:
                admission._check(more, others=len(admission.reserved) > 1)
            admission.reserved[self] = tokens

    def release(self) -> None:
        """Make room for another request."""
        with self._admission._lock:
            self._admission.reserved.pop(self, None)

    def __enter__(self) -> Reservation:
        """Return the reservation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the reservation, whether or not the block failed."""
        del kind, error, traceback
        self.release()
