"""One AdamW step on each document, in order, and nothing broken is ever answered with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from peft import LoraConfig, get_peft_model

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft import Engine, LanguageModel
from langchain_sift.ttft.adapter import LowRankLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TARGET = [5, 9, 40, 41, 7, 8, 100, 21]


def test_it_learns_what_peft_and_adamw_learn(
    engine: Engine,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    recipe: FineTuneConfig,
    texts: list[str],
) -> None:
    chosen = [texts[3], texts[10], texts[3], texts[20]]
    peers = get_peft_model(
        copy.deepcopy(tiny_model),
        LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear"),
    )
    fresh = {n: m for n, m in engine._model.named_modules() if isinstance(m, LowRankLinear)}
    for name, layer in fresh.items():
        peer = peers.base_model.model.get_submodule(name)
        peer.lora_A["default"].weight.data.copy_(layer.down.data)
    trainable = [p for p in peers.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, eps=1e-8, weight_decay=0.0)
    expected = []
    for text in chosen:
        ids = torch.tensor([tiny_tokenizer(text)["input_ids"][: recipe.max_length]])
        loss = peers(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    peers.eval()
    tokens = torch.tensor([TARGET])
    with torch.no_grad():
        after = peers(input_ids=tokens, labels=tokens).loss.item()

    with engine.finetune(chosen) as model:
        nats = model.negative_log_likelihood(TARGET[:1], TARGET[1:])
        assert model.training.losses == pytest.approx(expected, abs=1e-4)
        assert model.training.trained == (0, 1, 2, 3)
        assert model.training.fallback is None
    assert nats / (len(TARGET) - 1) == pytest.approx(after, abs=1e-3)


def test_training_on_a_text_makes_it_likelier(
    engine: Engine, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    ids = tiny_tokenizer(texts[0])["input_ids"][:64]
    with engine.finetune([]) as base:
        before = base.negative_log_likelihood(ids[:1], ids[1:])
    with engine.finetune([texts[0]] * 40) as model:
        assert model.negative_log_likelihood(ids[:1], ids[1:]) < 0.95 * before
        losses = model.training.losses
        assert max(losses[-5:]) < min(losses[:5])


def test_steps_per_document_are_steps_on_each_in_turn(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    once = Engine(language_model, FineTuneConfig(lora_rank=4, learning_rate=1e-2))
    twice = Engine(
        language_model, FineTuneConfig(lora_rank=4, learning_rate=1e-2, steps_per_document=2)
    )
    with once.finetune([texts[0], texts[0], texts[1], texts[1]]) as expected:
        losses = expected.training.losses
    with twice.finetune([texts[0], texts[1]]) as model:
        assert model.training.losses == losses
        assert model.training.trained == (0, 1)
        assert model.training.tokens == 2 * sum(
            len(tiny_tokenizer(text)["input_ids"]) for text in texts[:2]
        )


def test_short_documents_are_skipped_and_long_ones_cut_and_both_are_told(
    engine: Engine, texts: list[str]
) -> None:
    with engine.finetune(["", "a", texts[0], " ".join(texts[:40])]) as model:
        assert model.training.skipped == (0, 1)
        assert model.training.trained == (2, 3)
        assert model.training.truncated == (3,)
        assert model.training.tokens <= 2 * 64
        assert model.training.steps == 2


def test_only_skipped_documents_leave_the_base_model(engine: Engine) -> None:
    with engine.finetune([]) as base:
        expected = base.negative_log_likelihood(TARGET[:1], TARGET[1:])
    with engine.finetune(["", "a"]) as model:
        assert model.training.fallback == "no document to learn from"
        assert model.training.skipped == (0, 1)
        assert model.negative_log_likelihood(TARGET[:1], TARGET[1:]) == expected


def test_a_training_that_diverges_answers_as_the_base_model(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    config = FineTuneConfig(lora_rank=4, learning_rate=1e30)
    engine = Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), config)
    with engine.finetune([]) as base:
        expected = base.negative_log_likelihood(TARGET[:1], TARGET[1:])
    with engine.finetune(texts[:6]) as model:
        assert model.training.fallback is not None
        assert "finite" in model.training.fallback
        assert model.negative_log_likelihood(TARGET[:1], TARGET[1:]) == expected


def test_it_stops_before_the_next_step_when_asked(engine: Engine, texts: list[str]) -> None:
    asked = []

    def after_three() -> bool:
        asked.append(None)
        return len(asked) > 3

    with engine.finetune(texts[:10], should_stop=after_three) as model:
        assert model.training.steps == 3
        assert model.training.trained == (0, 1, 2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_inside_a_callers_no_grad(mode: type, engine: Engine, texts: list[str]) -> None:
    with engine.finetune(texts[:3]) as model:
        expected = model.training.losses
    with mode(), engine.finetune(texts[:3]) as model:
        assert model.training.losses == expected


def test_the_optimizers_moments_do_not_outlive_the_prompt(engine: Engine, texts: list[str]) -> None:
    with engine.finetune(texts[:4]) as model:
        first = model.training.losses
    with engine.finetune(texts[30:40]):
        pass
    with engine.finetune(texts[:4]) as model:
        assert model.training.losses == first
