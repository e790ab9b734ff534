"""The engine on a GPU: recorded steps learn what plain ones do, and memory comes back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, ScoringTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RECIPE = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)
SCORING = ScoringTask([([5], [9, 40, 41, 7, 8])])


@pytest.fixture
def on_gpu(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel("tiny", copy.deepcopy(tiny_model).to("cuda"), tiny_tokenizer)


def test_it_learns_there_what_it_learns_on_a_cpu(
    on_gpu: LanguageModel,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
) -> None:
    """Ten steps of few lengths: the first are plain, the others recorded."""
    here = Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), RECIPE)
    there = Engine(on_gpu, RECIPE)
    for start in (0, 10):
        expected = here.outcome(here.request(texts[start : start + 10], SCORING))
        found = there.outcome(there.request(texts[start : start + 10], SCORING))
        assert found.training.losses == pytest.approx(expected.training.losses, abs=1e-3)
        assert found.nats == pytest.approx(expected.nats, abs=1e-2)
    assert there._worker._trainer._recorder._recordings


def test_prompts_together_are_as_alone(on_gpu: LanguageModel, texts: list[str]) -> None:
    engine = Engine(on_gpu, RECIPE, Limits(max_batch_size=4))
    task = GenerationTask([5, 9, 40], GenerationConfig(max_tokens=8))
    requests = [engine.request(texts[start : start + 6], task) for start in range(0, 24, 6)]
    alone = [engine.outcome(request).training.losses for request in requests]
    for _ in range(3):  # plain, recorded, replayed
        reservations = [engine.admission.admit(1) for _ in requests]
        tickets = [
            engine.submit(r, reservation=held)
            for r, held in zip(requests, reservations, strict=True)
        ]
        for ticket, expected in zip(tickets, alone, strict=True):
            *_, outcome = ticket
            assert outcome.training.losses == pytest.approx(expected, abs=1e-3)


def test_memory_is_what_it_was(on_gpu: LanguageModel, texts: list[str]) -> None:
    engine = Engine(on_gpu, RECIPE)
    for start in range(20):
        engine.outcome(engine.request(texts[start : start + 5], SCORING))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for start in range(30):
        engine.outcome(engine.request(texts[start : start + 5], SCORING))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


def test_a_real_lack_of_memory_ends_in_the_base_model(
    on_gpu: LanguageModel, texts: list[str]
) -> None:
    engine = Engine(on_gpu, RECIPE)
    expected = engine.outcome(engine.request([], SCORING)).nats
    free = torch.cuda.mem_get_info()[0]
    hog = torch.empty(int(free * 0.98), dtype=torch.uint8, device="cuda")
    request = engine.request([" ".join(texts)] * 2, SCORING, config=replace(RECIPE, max_length=256))
    short_of_memory = engine.outcome(request)
    del hog
    torch.cuda.empty_cache()
    if short_of_memory.training.fallback is not None:
        assert "memory" in short_of_memory.training.fallback
        assert short_of_memory.nats == expected
    assert engine.outcome(engine.request([], SCORING)).nats == expected
