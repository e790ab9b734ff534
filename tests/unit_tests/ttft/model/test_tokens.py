"""The number of training tokens reserved for a request is never too small, and texts are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit_tests.small_tokenizers import KINDS, small_tokenizer

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import PromptTooLong
from langchain_sift.ttft.model import tokens as tokens_module
from langchain_sift.ttft.model.tokens import (
    cut_text,
    first_tokens,
    max_token_count,
    max_training_tokens,
    plain_tokens,
    text_tokens,
    tokens_after,
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_cut_between_characters(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    for text in ("The river flows é🦊 over  the\n\nbridge.", "rice " * 30, " x"):
        for length in range(1, 12):
            cut = cut_text(tokenizer, text, length)
            assert text.startswith(cut)
            assert len(plain_tokens(tokenizer, cut)) <= length
            if cut != text:
                longer = plain_tokens(tokenizer, text[: len(cut) + 8])
                assert len(longer) > length - 4


def test_a_text_of_few_tokens_is_not_cut() -> None:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.add_tokens(["-" * 64])
    text = "-" * 640
    assert len(plain_tokens(tokenizer, text)) == 10
    assert cut_text(tokenizer, text, 10) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_far_beyond_the_context_is_refused_by_its_beginning(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tokenizer, read = small_tokenizer(kind), []
    encode = tokens_module._encode

    def spied(tokenizer: PreTrainedTokenizerFast, text: str, *, special_tokens: bool) -> list[int]:
        read.append(len(text))
        return encode(tokenizer, text, special_tokens=special_tokens)

    monkeypatch.setattr(tokens_module, "_encode", spied)
    for text in ("The river flows over the bridge. ", "rice "):
        read.clear()
        with pytest.raises(PromptTooLong, match="from 1 to 19 tokens, got more than 40"):
            text_tokens(tokenizer, text * 5_000, limit=20)
        assert max(read) < len(text * 5_000) / 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["The river flows over the bridge. ", " ", "é🦊", "x"])
def test_the_first_tokens_and_those_of_a_prompt_that_may_fit_are_exact(
    kind: str, text: str
) -> None:
    tokenizer = small_tokenizer(kind)
    for times in (0, 1, 30, 200):
        whole = text_tokens(tokenizer, text * times)
        assert text_tokens(tokenizer, text * times, limit=max(1, len(whole) // 2)) == whole
        assert first_tokens(tokenizer, text * times, 10) == whole[:10]


def tokens_by_lm_eval(tokenizer: PreTrainedTokenizerFast, context: str, text: str) -> list[int]:
    """`TemplateLM._encode_pair` of lm-evaluation-harness 0.4."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, text = context[:-spaces], context[-spaces:] + text
    whole = tokenizer(context + text, add_special_tokens=False)["input_ids"]
    return whole[len(tokenizer(context, add_special_tokens=False)["input_ids"]) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [" bread", " seven warm loaves", "bread", ", and bread"])
def test_tokens_after_a_context_are_those_of_lm_evaluation_harness(kind: str, text: str) -> None:
    tokenizer = small_tokenizer(kind)
    context = "Question: Who bakes the bread in the village by the river?\nAnswer:"
    expected = tokens_by_lm_eval(tokenizer, context, text)
    assert tokens_after(tokenizer, plain_tokens(tokenizer, context), text) == expected


def test_a_text_after_nothing_is_tokenized_alone(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokens_after(tiny_tokenizer, [], "The river") == plain_tokens(
        tiny_tokenizer, "The river"
    )
