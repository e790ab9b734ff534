"""Set the learning rate by the width of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from langchain_sift import FineTuneConfig
from langchain_sift.ttft import Engine, LanguageModel
from langchain_sift.ttft.training.learning_rate import with_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def test_the_rate_is_one_divided_by_the_hidden_size_unless_it_is_given(
    tiny_model: PreTrainedModel,
) -> None:
    width = tiny_model.get_input_embeddings().weight.shape[1]
    assert with_learning_rate(FineTuneConfig(), tiny_model).learning_rate == 1 / width
    for rate in (0.0, 1e-3):
        config = FineTuneConfig(learning_rate=rate)
        assert with_learning_rate(config, tiny_model) is config


def test_the_default_rate_trains_as_the_same_rate_given(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    given = FineTuneConfig(
        lora_rank=4, max_length=32, learning_rate=1 / tiny_model.config.hidden_size
    )
    engine = Engine(language_model, replace(given, learning_rate=None))
    texts = ["the cat sat on the mat", "the dog ran"]
    requests = [engine.request(texts, config=config, keep_adapter=True) for config in (None, given)]
    default, expected = (engine.outcome(request).trained() for request in requests)
    engine.close()
    assert default.config == expected.config == given
    assert torch.equal(default.weights, expected.weights)
    assert default.weights.abs().max() > 0
