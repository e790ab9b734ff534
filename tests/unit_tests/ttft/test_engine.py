"""Requests never see each other, and the base model never learns that there were any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError, BusyError
from langchain_sift.ttft import Engine, LanguageModel, shared_engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]
ANSWER = GenerationConfig(max_tokens=8)


def test_after_many_requests_the_base_model_is_what_it_was(
    engine: Engine,
    tiny_model: PreTrainedModel,
    texts: list[str],
    fingerprint: Callable[[torch.nn.Module], str],
) -> None:
    before = fingerprint(tiny_model)
    flags = [(p.requires_grad, p.grad) for p in tiny_model.parameters()]
    for start in range(20):
        with engine.finetune(texts[start : start + 3]) as model:
            list(model.generate(PROMPT, ANSWER))
        with pytest.raises(ZeroDivisionError), engine.finetune(texts[:2]):
            1 / 0  # noqa: B018
    assert fingerprint(tiny_model) == before
    assert [(p.requires_grad, p.grad) for p in tiny_model.parameters()] == flags
    assert not tiny_model.training
    assert engine._adapter.is_pristine()


def test_without_documents_it_is_the_base_model_exactly(
    engine: Engine, tiny_model: PreTrainedModel, texts: list[str]
) -> None:
    with torch.inference_mode():
        expected = tiny_model(input_ids=torch.tensor([PROMPT])).logits
    with engine.finetune(texts[:3]):
        pass
    with engine.finetune([]) as model, torch.inference_mode():
        assert torch.equal(model.model(input_ids=torch.tensor([PROMPT])).logits, expected)
        assert model.training.fallback == "no document to learn from"


def test_concurrent_requests_answer_as_they_would_alone(engine: Engine, texts: list[str]) -> None:
    def answer(start: int) -> tuple[str, tuple[float, ...]]:
        with engine.finetune(texts[start : start + 3]) as model:
            return "".join(model.generate(PROMPT, ANSWER)), model.training.losses

    alone = [answer(start) for start in range(12)]
    assert len({text for text, _ in alone}) > 1
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(answer, range(12))) == alone


def test_two_engines_on_one_model_do_not_see_each_other(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    one = Engine(language_model, FineTuneConfig(lora_rank=4, learning_rate=1e-2))
    other = Engine(language_model, FineTuneConfig(lora_rank=2, learning_rate=1e-2))
    with other.finetune([]) as base:
        expected = base.negative_log_likelihood(PROMPT[:1], PROMPT[1:])
    with one.finetune(texts[:3]), other.finetune([]) as beside:
        assert beside.negative_log_likelihood(PROMPT[:1], PROMPT[1:]) == expected


def test_a_request_does_not_wait_for_ever(engine: Engine, texts: list[str]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.finetune(texts[:1]):
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(30)
    with pytest.raises(BusyError, match=r"0\.05 s"), engine.finetune([], max_wait=0.05):
        pass
    leave.set()
    holder.join()
    with engine.finetune([], max_wait=5.0) as model:
        assert model.training.steps == 0


def test_the_same_weights_and_recipe_share_an_engine(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def engine_of(rank: int) -> Engine:
        language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
        return shared_engine(language_model, FineTuneConfig(lora_rank=rank))

    first = engine_of(3)
    assert engine_of(3) is first
    assert engine_of(5) is not first


@pytest.mark.parametrize("length", [0, 256, 1000])
def test_a_prompt_must_leave_room_for_an_answer(engine: Engine, length: int) -> None:
    with pytest.raises(ArgumentError, match=f"got {length}"):
        engine.check_prompt([1] * length)
