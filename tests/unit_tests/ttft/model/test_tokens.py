"""The number of training tokens reserved for a request is never too small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.model.tokens import (
    max_token_count,
    max_training_tokens,
    training_tokens,
)
from langchain_sift.ttft.texts import well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, 60),
        ({"steps_per_document": 2}, 120),
        ({"max_documents": 2}, 50),
        ({"max_train_tokens": 17}, 17),
        ({"max_documents": 1, "steps_per_document": 2, "max_train_tokens": 100}, 60),
    ],
)
def test_training_tokens_are_those_of_the_longest_documents_within_the_budget(
    settings: dict[str, int], tokens: int
) -> None:
    assert training_tokens([10, 30, 20], FineTuneConfig(**settings)) == tokens
    assert training_tokens([], FineTuneConfig(**settings)) == 0
    # Of unknown documents, each may have as many tokens as are used of a document.
    config = FineTuneConfig(max_length=30, **settings)
    for count in range(4):
        assert max_training_tokens(count, config) == training_tokens([30] * count, config)
    assert max_training_tokens(10**15, config) > 0  # without a list of that length


@pytest.mark.parametrize(
    "text", ["", "x", "The river", "\N{SNOWMAN}\N{SNOWMAN}", "a\ud800b", "?!" * 50]
)
@pytest.mark.parametrize("max_length", [2, 8, 1000])
def test_a_document_has_at_most_max_token_count_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, text: str, max_length: int
) -> None:
    length = len(tiny_tokenizer(well_formed(text))["input_ids"][:max_length])
    assert length <= max_token_count(text, max_length) <= max_length
