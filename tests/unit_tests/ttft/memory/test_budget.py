"""A limit of memory makes batches smaller, and refuses what does not fit alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError, MemoryExceeded
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome, Request
from langchain_sift.ttft.memory.budget import load_of
from langchain_sift.ttft.memory.estimate import batch_bytes
from langchain_sift.ttft.memory.footprint import measure_footprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ANSWER = GenerationTask([5, 9, 40, 41, 7], GenerationConfig(max_tokens=4))


@pytest.fixture
def language_model(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> LanguageModel:
    return LanguageModel("tiny", tiny_model, tiny_tokenizer)


@pytest.fixture(autouse=True)
def _an_empty_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a process of gigabytes as empty: beside it, tiny models hardly matter."""
    monkeypatch.setattr("langchain_sift.ttft.memory.budget.used_bytes", lambda _: 0)
    monkeypatch.setattr("langchain_sift.ttft.memory.budget._BESIDE", 0)


def gigabytes(
    language_model: LanguageModel, config: FineTuneConfig, request: Request, count: int
) -> float:
    """Return the estimate for some requests like this one together."""
    footprint = measure_footprint(language_model, config)
    return batch_bytes(footprint, [load_of(request)] * count) / 1e9


def batch_sizes(engine: Engine, requests: list[Request]) -> list[int]:
    """Run requests that arrive together; return the sizes of their batches, and check losses."""
    reservations = [engine.admission.admit(0) for _ in requests]
    tickets = [
        engine.submit(request, reservation=reservation)
        for request, reservation in zip(requests, reservations, strict=True)
    ]
    outcomes = [event for ticket in tickets for event in ticket if isinstance(event, Outcome)]
    for outcome in outcomes:
        assert outcome.training.losses == pytest.approx(outcomes[0].training.losses, abs=1e-5)
    return [outcome.batch_size for outcome in outcomes]


def test_batches_are_as_large_as_the_limit_allows(
    language_model: LanguageModel, finetune_config: FineTuneConfig, texts: list[str]
) -> None:
    free = Engine(language_model, finetune_config, Limits(gather_seconds=10.0))
    request = free.request(texts[:2], ANSWER)
    two = gigabytes(language_model, finetune_config, request, 2)
    engine = Engine(
        language_model, finetune_config, Limits(gather_seconds=10.0, max_memory_gb=1.01 * two)
    )
    requests = [engine.request(texts[:2], ANSWER) for _ in range(5)]
    assert batch_sizes(engine, requests) == [2, 2, 2, 2, 1]
    assert batch_sizes(free, requests) == [5] * 5
    assert engine.status().estimated_memory == pytest.approx(1e9 * two, rel=1e-4)
    assert free.status().estimated_memory is None
    assert free.status().peak_memory > 10**8


def test_a_request_that_does_not_fit_alone_is_refused_with_the_estimate(
    language_model: LanguageModel, finetune_config: FineTuneConfig, texts: list[str]
) -> None:
    request = Engine(language_model, finetune_config).request(texts[:2], ANSWER)
    one = gigabytes(language_model, finetune_config, request, 1)
    engine = Engine(language_model, finetune_config, Limits(max_memory_gb=0.99 * one))
    engine.request((), ANSWER)
    unfinished = engine.request(None, ANSWER)
    with pytest.raises(MemoryExceeded, match=r"needs about 0\.00 GB .* raise Limits.max_memory_gb"):
        engine.request(texts[:2], ANSWER)
    with pytest.raises(MemoryError):
        engine.with_texts(unfinished, texts[:2])
    assert engine.status().admitted == 0
    with pytest.raises(MemoryExceeded):
        Engine(language_model, finetune_config, Limits(max_memory_gb=1e-9)).request((), ANSWER)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), "4", True])
def test_a_limit_that_is_no_amount_of_memory_is_refused(limit: object) -> None:
    with pytest.raises(ArgumentError, match="max_memory_gb"):
        Limits(max_memory_gb=limit)  # type: ignore[arg-type]
