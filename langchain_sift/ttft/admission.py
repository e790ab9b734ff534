"""Who may come in: a bounded number of requests and of training tokens, refused at once beyond."""

from __future__ import annotations

import threading
from types import TracebackType

from langchain_sift.config import Limits
from langchain_sift.errors import EngineOverloaded


class Admission:
    """Counts what was admitted and is not done; atomic, and never waits."""

    def __init__(self, limits: Limits) -> None:
        """Start with nothing admitted."""
        self._limits = limits
        # Reentrant: a finalizer that gives a place back may run inside any of these methods.
        self._lock = threading.RLock()
        self._requests = 0
        self._tokens = 0

    @property
    def requests(self) -> int:
        """Requests admitted and not done."""
        return self._requests

    @property
    def tokens(self) -> int:
        """Training tokens admitted and not done."""
        return self._tokens

    def admit(self, tokens: int) -> Place:
        """Return a place for a request that will train on no more than so many tokens.

        Raises:
            EngineOverloaded: If there is no room; nothing was reserved.
        """
        with self._lock:
            if self._requests >= self._limits.max_requests:
                msg = (
                    f"{self._requests} requests are admitted, as many as max_requests allows: "
                    "ask again later, or raise Limits.max_requests"
                )
                raise EngineOverloaded(msg)
            self._check(tokens, others=self._requests > 0)
            self._requests += 1
            self._tokens += tokens
            return Place(self, tokens)

    def need(self, tokens: int) -> None:
        """Reserve so many tokens more, or fewer.

        Raises:
            EngineOverloaded: If there is no room; nothing was reserved.
        """
        with self._lock:
            if tokens > 0:
                self._check(tokens, others=self._requests > 1)
            self._tokens += tokens

    def _check(self, tokens: int, *, others: bool) -> None:
        # A request larger than the limit is admitted where it is alone.
        if others and self._tokens + tokens > self._limits.max_tokens:
            msg = (
                f"{self._tokens} training tokens are admitted, and with {tokens} more they were "
                f"above max_tokens ({self._limits.max_tokens}): ask again later, learn from "
                "less, or raise Limits.max_tokens"
            )
            raise EngineOverloaded(msg)

    def give_back(self, requests: int, tokens: int) -> None:
        """Make room."""
        with self._lock:
            self._requests -= requests
            self._tokens -= tokens


class Place:
    """A request's place among those admitted, until it is given back; giving back twice is once."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        """Belong to an admission, which has counted it."""
        self._admission = admission
        self._tokens = tokens
        self._lock = threading.Lock()
        self._held = True

    def need(self, tokens: int) -> None:
        """Say how many tokens the request turned out to train on.

        Raises:
            EngineOverloaded: If they are more than reserved, and there is no room for them.
        """
        with self._lock:
            if self._held:
                self._admission.need(tokens - self._tokens)
                self._tokens = tokens

    def give_back(self) -> None:
        """Make room for others."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._admission.give_back(1, self._tokens)

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
