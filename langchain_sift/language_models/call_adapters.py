"""Take the adapter of a call from a cache, and keep it there or for further calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft import AdapterCache, Engine, Outcome, Request, TrainedAdapter


@dataclass(slots=True)
class KeptAdapter:
    """The adapter that a call trained, for further calls with the same documents."""

    adapter: TrainedAdapter | None = None
    """None if the call has not ended, or the base model answered."""


class CallAdapter:
    """The adapter of one call."""

    def __init__(
        self, cache: AdapterCache | None, config: FineTuneConfig, kept: KeptAdapter | None
    ) -> None:
        """Start without an adapter.

        Args:
            cache: The cache. None means none.
            config: Settings of the training.
            kept: Gets the adapter at the end. None means that it is not kept.
        """
        self.from_cache = False
        """True if the adapter came from the cache."""
        self._cache = cache
        self._config = config
        self._kept = kept
        self._key: str | None = None

    def request(self, engine: Engine, request: Request) -> Request:
        """Return the request with an adapter from the cache, or as one whose adapter is kept."""
        if self._kept is not None:
            request = replace(request, keep_adapter=True)
        if self._cache is None or not request.documents:
            return request
        self._key = self._cache.key(engine.language_model.fingerprint, request)
        adapter = self._cache.get(self._key)
        if adapter is None:
            return replace(request, keep_adapter=True)
        self.from_cache = True
        return request.with_adapter(adapter)

    def keep(self, outcome: Outcome) -> None:
        """Keep the adapter of an outcome, if there is one."""
        adapter = outcome.adapter
        if self._kept is not None:
            self._kept.adapter = adapter
        if self._cache is None or self._key is None or adapter is None or self.from_cache:
            return
        # The lengths differ if documents were cut for lack of memory.
        if adapter.config.max_length == self._config.max_length:
            self._cache.put(self._key, adapter)
