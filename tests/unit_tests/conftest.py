"""Provide tokenizers with a chat template, and a model that calls tools."""

# ruff: noqa: PLC0415 - tests without a model do not load its libraries

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def templated(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> Callable[[str | None], PreTrainedTokenizerFast]:
    """Return a copy of the tokenizer with a template."""

    def make(template: str | None) -> PreTrainedTokenizerFast:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tool_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a model that calls tools; no test may change it."""
    from unit_tests.tool_model import make_tool_model

    return make_tool_model()
