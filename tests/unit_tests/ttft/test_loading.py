"""Loaded once, from where it was said, and never run."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.errors import ArgumentError, ModelLoadError
from langchain_sift.ttft import fastest_dtype, load_language_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def test_one_name_is_loaded_once_while_it_is_in_use(tiny_model_path: Path) -> None:
    first = load_language_model(str(tiny_model_path), dtype="float32")
    assert load_language_model(str(tiny_model_path), dtype=torch.float32) is first
    other = load_language_model(str(tiny_model_path), dtype="bfloat16")
    assert other.model is not first.model
    assert other.model.dtype == torch.bfloat16
    gone = weakref.ref(other.model)
    del other
    gc.collect()
    assert gone() is None


def test_the_weights_are_those_that_were_saved(
    tiny_model: PreTrainedModel, tiny_model_path: Path
) -> None:
    loaded = load_language_model(str(tiny_model_path), dtype="float32").model.state_dict()
    for name, weights in tiny_model.state_dict().items():
        assert torch.equal(loaded[name], weights)


def test_a_loaded_model_is_taken_as_it_is(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = load_language_model(tiny_model, tiny_tokenizer)
    assert loaded.model is tiny_model
    assert loaded.context_length == 256
    with pytest.raises(ArgumentError, match="tokenizer="):
        load_language_model(tiny_model)


def test_the_default_dtype_is_the_fastest_of_the_device(tiny_model_path: Path) -> None:
    fastest = fastest_dtype(torch.device("cpu"))
    assert fastest in {torch.bfloat16, torch.float32}
    assert load_language_model(str(tiny_model_path), device="cpu").model.dtype == fastest
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16


def test_what_cannot_be_loaded_is_named(tmp_path: Path, tiny_model_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere"):
        load_language_model(str(tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="float1"):
        load_language_model(str(tiny_model_path), dtype="float1")


def test_a_pickled_checkpoint_is_refused(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    tiny_model.config.save_pretrained(tmp_path)
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="safetensors"):
        load_language_model(str(tmp_path))
