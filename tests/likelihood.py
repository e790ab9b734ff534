"""Score a text with an engine."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_sift.ttft import Engine, ScoringTask, TrainedAdapter


def negative_log_likelihood(
    engine: Engine,
    context: Sequence[int],
    target: Sequence[int],
    *,
    texts: Sequence[str] | TrainedAdapter = (),
) -> float:
    """Return the negative log-likelihood of the target, in nats, after training on the texts."""
    return engine.outcome(engine.request(texts, ScoringTask([(context, target)]))).nats[0]
