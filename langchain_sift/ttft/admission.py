"""Who may come in: a bounded number of requests and of training tokens, refused at once beyond."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType

from langchain_sift.config import Limits
from langchain_sift.errors import EngineOverloaded


class Admission:
    """Knows what was admitted and is not done; atomic, and never waits."""

    def __init__(self, limits: Limits) -> None:
        """Start with nothing admitted."""
        self._limits = limits
        # Reentrant: a finalizer that gives a place back may run inside any of these methods.
        self._lock = threading.RLock()
        # The tokens of each place. Weakly: wherever an interrupt strikes, a place that nobody
        # holds is free, and there is no count that could be left wrong.
        self._places: weakref.WeakKeyDictionary[Place, int] = weakref.WeakKeyDictionary()

    @property
    def requests(self) -> int:
        """Requests admitted and not done."""
        return len(self._places)

    @property
    def tokens(self) -> int:
        """Training tokens admitted and not done."""
        with self._lock:
            return sum(self._places.values())

    def admit(self, tokens: int) -> Place:
        """Return a place for a request that will train on no more than so many tokens.

        Raises:
            EngineOverloaded: If there is no room; nothing was reserved.
        """
        place = Place(self)
        with self._lock:
            if self.requests >= self._limits.max_requests:
                raise EngineOverloaded(
                    f"{self.requests} requests are admitted, as many as max_requests allows: "
                    "ask again later, or raise Limits.max_requests"
                )
            self._check(tokens, others=self.requests > 0)
            self._places[place] = tokens
        return place

    def need(self, place: Place, tokens: int) -> None:
        """Reserve so many tokens for a place, in the stead of those that were.

        Raises:
            EngineOverloaded: If they are more, and there is no room; nothing has changed.
        """
        with self._lock:
            if place not in self._places:
                return
            more = tokens - self._places[place]
            if more > 0:
                self._check(more, others=self.requests > 1)
            self._places[place] = tokens

    def _check(self, tokens: int, *, others: bool) -> None:
        # A request larger than the limit is admitted where it is alone.
        if others and self.tokens + tokens > self._limits.max_tokens:
            raise EngineOverloaded(
                f"{self.tokens} training tokens are admitted, and with {tokens} more they were "
                f"above max_tokens ({self._limits.max_tokens}): ask again later, learn from "
                "less, or raise Limits.max_tokens"
            )

    def give_back(self, place: Place) -> None:
        """Make room."""
        with self._lock:
            self._places.pop(place, None)


class Place:
    """A request's place among those admitted, until it is given back; giving back twice is once."""

    def __init__(self, admission: Admission) -> None:
        """Belong to an admission, which counts it while it is there."""
        self._admission = admission

    def need(self, tokens: int) -> None:
        """Say how many tokens the request turned out to train on.

        Raises:
            EngineOverloaded: If they are more than reserved, and there is no room for them.
        """
        self._admission.need(self, tokens)

    def give_back(self) -> None:
        """Make room for others."""
        self._admission.give_back(self)

    def __enter__(self) -> Place:
        """Hold the place."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back, whatever happened."""
        del kind, error, traceback
        self.give_back()
