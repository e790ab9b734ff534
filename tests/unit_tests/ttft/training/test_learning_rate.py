"""Set the learning rate of a request by the gradient of its first step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift import FineTuneConfig
from langchain_sift.ttft import Engine, LanguageModel
from langchain_sift.ttft.training.learning_rate import first_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

# The scale is so large that the rate is below its bound.
CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=256.0, max_length=32, max_gradient_norm=None)
TEXTS = ["the cat sat on the mat", "the dog ran over the hill and far away"]


@pytest.fixture
def engine(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), CONFIG)


def trained(engine: Engine, texts: list[str], **changes: float) -> TrainedAdapter:
    config = replace(CONFIG, **changes)
    return engine.outcome(engine.request(texts, config=config, keep_adapter=True)).trained()


def test_to_first_order_the_loss_falls_by_a_fixed_amount(engine: Engine) -> None:
    rate = trained(engine, TEXTS[:1]).training.learning_rate
    assert rate < 0.01
    small = rate / 100
    after = trained(engine, TEXTS[:1], learning_rate=small, steps_per_document=2)
    first, second = after.training.losses
    assert first > 1.2
    assert (first - second) * 100 == pytest.approx(0.6, rel=0.05)


def test_the_rate_stays_for_all_steps_and_depends_on_the_first_document_alone(
    engine: Engine,
) -> None:
    default = trained(engine, TEXTS)
    rate = default.training.learning_rate
    assert rate == trained(engine, TEXTS[:1]).training.learning_rate
    given = trained(engine, TEXTS, learning_rate=rate)
    assert torch.equal(default.weights, given.weights)
    assert given.training.learning_rate == rate
    assert default.weights.abs().max() > 0
    assert rate != trained(engine, TEXTS[::-1]).training.learning_rate


@pytest.mark.parametrize(
    ("gradient", "loss", "expected"),
    [
        ([1.0, -3.0], 1e-3, 1.25e-4),
        ([100.0, -300.0], 9.0, 1.5e-3),
        ([1.0, -3.0], 10.0, 0.01),
        ([0.0, 0.0], 2.0, 0.01),
        ([0.0, 0.0], 0.0, 0.0),
        ([1.0, torch.nan], 2.0, 0.0),
        ([1.0, torch.inf], 2.0, 0.0),
        ([1.0, 1.0], torch.nan, 0.0),
    ],
)
def test_the_rate_is_finite_and_bounded(
    gradient: list[float], loss: float, expected: float
) -> None:
    rate = first_learning_rate(torch.tensor(gradient), torch.tensor(loss))
    assert float(rate) == pytest.approx(expected)
