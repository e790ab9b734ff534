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

    @property
    def requests(self) -> int:
        """Number of places that are taken; the first part of a request has the request's place."""
        with self._lock:
            wholes = {part.whole for part in self.reserved}
            return sum(part not in wholes for part in self.reserved)

    def admit(self, tokens: int, *, part_of: Reservation | None = None) -> Reservation:
        """Reserve room for one request, or for one of several parts of a request.

        One part at a time has the place of its request. Further parts leave half of all places to
        other requests, so that a request with many parts does not shut them out.

        Args:
            tokens: Maximum number of tokens that it will train on.
            part_of: The reservation of the whole request. None means a request of its own.

        Raises:
            EngineOverloaded: If a limit is reached. Nothing was reserved.
        """
        reservation = Reservation(self, part_of)
        with self._lock:
            most = self._limits.max_requests
            if part_of is not None and any(part.whole is part_of for part in self.reserved):
                most -= most // 2
            others = self.requests
            self.reserved[reservation] = 0
            try:
                if self.requests > max(others, most):
                    raise EngineOverloaded(
                        f"{others} requests are admitted, and max_requests allows "
                        f"{self._limits.max_requests}: try again later, or raise "
                        "Limits.max_requests"
                    )
                reservation.resize(tokens)
            except EngineOverloaded:
                reservation.release()
                raise
        return reservation

    def within(self) -> Reservation:
        """Return a reservation without a place, for a small step of a request that has one."""
        return Reservation(self)


class Reservation:
    """Room for one request, until it is released. Releasing it twice does no harm."""

    def __init__(self, admission: Admission, whole: Reservation | None = None) -> None:
        """Belong to an admission, which counts the reservation.

        Args:
            admission: The admission.
            whole: The reservation of the request of which this is a part. None means no part.
        """
        self._admission = admission
        self.whole = whole
        """The reservation of the request of which this is a part."""

    def resize(self, tokens: int) -> None:
        """Change the number of training tokens that are reserved.

        Raises:
            EngineOverloaded: If there is no room for more tokens. Nothing has changed.
        """
        admission = self._admission
        with admission._lock:
            if self not in admission.reserved:
                return
            others, most = admission.tokens - admission.reserved[self], admission._limits.max_tokens
            # A request larger than the limit is admitted if no other trains.
            if tokens > admission.reserved[self] and others and others + tokens > most:
                raise EngineOverloaded(
                    f"{others} training tokens of other requests are admitted, and {tokens} more "
                    f"would exceed max_tokens ({most}): try again later, train on less, or raise "
                    "Limits.max_tokens"
                )
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
