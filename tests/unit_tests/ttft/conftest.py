"""Fixtures of the engine's tests."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft import Engine, LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Make the random tensors of a test the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def finetune_config() -> FineTuneConfig:
    """Settings of a training that moves a tiny model far."""
    return FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)


@pytest.fixture(scope="session")
def one_layer_model(tiny_model: PreTrainedModel) -> PreTrainedModel:
    """A Llama of one layer, for tests of many requests; no test changes it."""
    config = copy.deepcopy(tiny_model.config)
    config.num_hidden_layers = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(tiny_model)(config).to(torch.float32).eval()


@pytest.fixture
def engine(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
) -> Engine:
    """An engine for one test, over weights that all tests share."""
    return Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), finetune_config)


@pytest.fixture
def fingerprint() -> Callable[[torch.nn.Module], str]:
    """SHA-256 over the names and bytes of all parameters and buffers."""

    def sha256(model: torch.nn.Module) -> str:
        digest = hashlib.sha256()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    return sha256
