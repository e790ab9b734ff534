"""Count requests, tokens and durations for Prometheus, summed over all tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from langchain_sift.serving.responses import Seconds, TTFTRecord, Usage
from langchain_sift.serving.session_store import EVENTS, Sessions
from langchain_sift.ttft import EngineStatus

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PREFIX = "langchain_sift"


class Metrics:
    """Counters in a separate registry, since a process may run several servers."""

    def __init__(self, status: Callable[[], EngineStatus], sessions: Sessions) -> None:
        """Start at zero.

        Args:
            status: Returns the state of the engine.
            sessions: The sessions to count.
        """
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(status))
        self._registry.register(_SessionCollector(sessions))
        self._requests = self._counter("requests", "Requests with a response.", "route", "status")
        self._latency = self._histogram(
            "request_seconds", "Seconds to the last byte of a response.", "route"
        )
        self._rejections = self._counter("refusals", "Requests rejected at once.", "reason")
        self._disconnects = self._counter(
            "disconnects", "Clients that disconnected before the end."
        )
        self._tokens = self._counter("tokens", "Tokens of answered requests.", "kind")
        self._steps = self._counter("training_steps", "Gradient steps.")
        self._fallbacks = self._counter(
            "fallbacks", "Answers of the base model after a failed or skipped training."
        )
        self._phases = {
            phase: self._histogram(
                f"{phase}_seconds", f"Seconds of {phase} of an answered request."
            )
            for phase in Seconds.model_fields
        }
        for reason in ("overloaded", "tenant_limit", "unauthorized"):
            self._rejections.labels(reason)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request with a response."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_rejection(self, reason: str) -> None:
        """Count a request that was rejected before any work was done."""
        self._rejections.labels(reason).inc()

    def count_disconnect(self) -> None:
        """Count a client that disconnected before the end."""
        self._disconnects.inc()

    def count_answer(self, record: TTFTRecord, usage: Usage) -> None:
        """Count steps, tokens and durations of an answer."""
        if not record.cached:  # otherwise the training was that of another request
            self._steps.inc(record.steps)
            self._tokens.labels("trained").inc(record.tokens)
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
        if record.fallback is not None:
            self._fallbacks.inc()
        for phase, seconds in record.seconds:
            self._phases[phase].observe(seconds)

    def count_learning(self, steps: int, tokens: int) -> None:
        """Count the training of a session without an answer."""
        self._steps.inc(steps)
        self._tokens.labels("trained").inc(tokens)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"{_PREFIX}_{name}", text, labels, registry=self._registry, buckets=_BUCKETS
        )


class _EngineCollector(Collector):
    """Read the state of the engine when Prometheus collects the metrics."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        for name, text in (
            ("admitted", "Requests admitted and not finished."),
            ("admitted_tokens", "Training tokens reserved for them."),
            ("waiting", "Requests in the queue."),
            ("at_work", "Requests in the current batch."),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, getattr(status, name))
        for kind, size in (
            ("estimated", status.estimated_memory),
            ("measured", status.peak_memory),
        ):
            text = f"Bytes in use at the peak so far, {kind}."
            yield GaugeMetricFamily(f"{_PREFIX}_{kind}_memory_bytes", text, size or 0)
        yield CounterMetricFamily(
            f"{_PREFIX}_quarantined",
            "Slots that failed verification and were replaced.",
            status.quarantined,
        )


class _SessionCollector(Collector):
    """Read the number and the memory of the sessions when Prometheus collects the metrics."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        sessions = self._sessions
        for name, text, value in (
            ("sessions", "Sessions of all tenants.", sessions.count),
            ("session_memory_bytes", "Bytes of their adapters.", sessions.nbytes),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)
        events = CounterMetricFamily(
            f"{_PREFIX}_session_events", "Events of sessions.", labels=["event"]
        )
        for event in EVENTS:
            events.add_metric([event], sessions.events[event])
        yield events
