"""On a GPU, recorded steps train as plain steps do, and all memory is released."""

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

CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)
SCORING = ScoringTask([([5], [9, 40, 41, 7, 8])])


@pytest.fixture
def on_gpu(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel("tiny", copy.deepcopy(tiny_model).to("cuda"), tiny_tokenizer)


def test_training_on_a_gpu_equals_training_on_a_cpu(
    on_gpu: LanguageModel,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
) -> None:
    """Take ten steps of few lengths: the first of each length is plain, the others are recorded."""
    cpu = Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), CONFIG)
    gpu = Engine(on_gpu, CONFIG)
    for start in (0, 10):
        expected = cpu.outcome(cpu.request(texts[start : start + 10], SCORING))
        outcome = gpu.outcome(gpu.request(texts[start : start + 10], SCORING))
        assert outcome.training.losses == pytest.approx(expected.training.losses, abs=1e-3)
        assert outcome.nats == pytest.approx(expected.nats, abs=1e-2)
    assert gpu._worker._trainer._recorder._recordings


def test_prompts_of_a_batch_train_as_alone(on_gpu: LanguageModel, texts: list[str]) -> None:
    engine = Engine(on_gpu, CONFIG, Limits(max_batch_size=4))
    task = GenerationTask([5, 9, 40], GenerationConfig(max_tokens=8))
    requests = [engine.request(texts[start : start + 6], task) for start in range(0, 24, 6)]
    alone = [engine.outcome(request).training.losses for request in requests]
    for _ in range(3):  # plain, recorded, replayed
        reservations = [engine.admission.admit(1) for _ in requests]
        tickets = [
            engine.submit(r, reservation=reservation)
            for r, reservation in zip(requests, reservations, strict=True)
        ]
        for ticket, expected in zip(tickets, alone, strict=True):
            *_, outcome = ticket
            assert outcome.training.losses == pytest.approx(expected, abs=1e-3)


def test_the_memory_does_not_grow(on_gpu: LanguageModel, texts: list[str]) -> None:
    engine = Engine(on_gpu, CONFIG)
    for start in range(20):
        engine.outcome(engine.request(texts[start : start + 5], SCORING))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for start in range(30):
        engine.outcome(engine.request(texts[start : start + 5], SCORING))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


def test_the_base_model_answers_if_memory_does_not_suffice(
    on_gpu: LanguageModel, texts: list[str]
) -> None:
    engine = Engine(on_gpu, CONFIG)
    expected = engine.outcome(engine.request([], SCORING)).nats
    free = torch.cuda.mem_get_info()[0]
    reserved = torch.empty(int(free * 0.98), dtype=torch.uint8, device="cuda")
    request = engine.request([" ".join(texts)] * 2, SCORING, config=replace(CONFIG, max_length=256))
    outcome = engine.outcome(request)
    del reserved
    torch.cuda.empty_cache()
    if outcome.training.fallback is not None:
        assert "memory" in outcome.training.fallback
        assert outcome.nats == expected
    assert engine.outcome(engine.request([], SCORING)).nats == expected
