"""What the server did, for Prometheus; sums over all tenants, and no label names one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from langchain_sift.ttft import EngineStatus

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PREFIX = "langchain_sift"


class Metrics:
    """Counters in a registry of their own: several servers may live in one process."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        """Start at zero.

        Args:
            status: What the engine is doing.
        """
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(status))
        self._requests = self._counter("requests", "Requests answered.", "route", "status")
        self._latency = self._histogram("request_seconds", "To the last byte.", "route")
        self._refusals = self._counter("refusals", "Requests refused at once.", "reason")
        self._disconnects = self._counter("disconnects", "Clients that left before the end.")
        self._tokens = self._counter("tokens", "Tokens of answered requests.", "kind")
        self._steps = self._counter("training_steps", "Gradient steps.")
        self._fallbacks = self._counter("fallbacks", "Answers of the base model instead.")
        self._phases = {
            phase: self._histogram(f"{phase}_seconds", "Of an answered request.")
            for phase in ("retrieval", "waiting", "training", "generation")
        }
        for reason in ("overloaded", "tenant_limit", "unauthorized"):
            self._refusals.labels(reason)

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refusal(self, reason: str) -> None:
        """Count a request that was refused before anything was done for it."""
        self._refusals.labels(reason).inc()

    def disconnect(self) -> None:
        """Count a client that did not wait for the end."""
        self._disconnects.inc()

    def answer(self, record: Mapping[str, Any], usage: Mapping[str, int]) -> None:
        """Count what an answer took.

        Args:
            record: `response_metadata["ttft"]`.
            usage: Its tokens.
        """
        self._steps.inc(record["steps"])
        self._tokens.labels("trained").inc(record["tokens"])
        self._tokens.labels("prompt").inc(usage["input_tokens"])
        self._tokens.labels("completion").inc(usage["output_tokens"])
        if record["fallback"] is not None:
            self._fallbacks.inc()
        for phase, seconds in record["seconds"].items():
            self._phases[phase].observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"{_PREFIX}_{name}", text, labels, registry=self._registry, buckets=_BUCKETS
        )


class _EngineCollector(Collector):
    """Asks the engine when it is asked itself."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        for name, text in (
            ("admitted", "Requests admitted and not done."),
            ("admitted_tokens", "Training tokens that they may take."),
            ("waiting", "Requests in the queue."),
            ("at_work", "Requests in the batch that is being done."),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, getattr(status, name))
        yield CounterMetricFamily(
            f"{_PREFIX}_quarantined", "Slots found altered and replaced.", status.quarantined
        )
