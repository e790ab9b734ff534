"""A language model has the device and context length of its weights, and a tokenizer that fits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.big_modeling import cpu_offload
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import LanguageModel, load_language_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def test_the_device_is_that_of_the_input_embeddings(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    model.register_parameter("first", torch.nn.Parameter(torch.zeros(1)))
    loaded = load_language_model(model, tiny_tokenizer)
    # The only second device that every machine has; `model.device` is that of `first`.
    model.get_input_embeddings().to("meta")
    assert model.device == torch.device("cpu")
    assert loaded.device == torch.device("meta")


def test_an_offloaded_model_is_rejected(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = cpu_offload(copy.deepcopy(tiny_model), execution_device=torch.device("cpu"))
    with pytest.raises(ArgumentError, match="offloaded"):
        load_language_model(model, tiny_tokenizer)


def test_a_tokenizer_with_more_tokens_than_the_model_is_rejected(
    tiny_model: PreTrainedModel, tiny_model_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens(["supercalifragilistic"])
    for model in (tiny_model, tiny_model_path):
        with pytest.raises(ArgumentError, match=r"'supercali.*resize_token_embeddings"):
            load_language_model(model, larger)
    resized = copy.deepcopy(tiny_model)
    resized.resize_token_embeddings(len(larger))
    assert load_language_model(resized, larger).tokenizer is larger


def test_a_special_token_that_the_model_lacks_is_rejected_if_texts_contain_it(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # Gemma 3's tokenizer has a token for images, which its text-only model lacks.
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert len(larger) == tiny_model.get_input_embeddings().num_embeddings + 1
    assert load_language_model(tiny_model, larger).tokenizer is larger
    larger.eos_token = "<image>"  # noqa: S105 - a token, no secret
    with pytest.raises(ArgumentError, match="<image>"):
        load_language_model(tiny_model, larger)


@pytest.mark.parametrize(
    ("architecture", "sizes", "expected"),
    [
        ("llama", {"max_position_embeddings": 48}, 48),
        ("gpt2", {"n_positions": 48}, 48),
        ("mpt", {"max_seq_len": 48}, 48),
        ("bloom", {"seq_length": 48}, 48),
        ("bloom", {}, None),
        ("mamba", {}, None),
    ],
)
def test_the_context_length_is_that_of_the_configuration(
    architecture: str,
    sizes: dict[str, int],
    expected: int | None,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    small = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "d_model": 32}
    heads = {"n_layer": 1, "n_layers": 1, "n_head": 2, "n_heads": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        architecture, **({} if architecture == "mamba" else heads), **small, **sizes
    )
    model = LanguageModel("named", AutoModelForCausalLM.from_config(config), tiny_tokenizer)
    assert tiny_tokenizer.model_max_length == 256
    if expected is None:
        with pytest.raises(ArgumentError, match=r"named .*max_position_embeddings"):
            _ = model.context_length
    else:
        assert model.context_length == expected
