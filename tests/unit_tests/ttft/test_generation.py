"""Answers are transformers' own, piece by piece, and end when they should."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.generation import TokenStream, _until

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]


def stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **config: object
) -> TokenStream:
    return TokenStream(
        model, tokenizer, PROMPT, GenerationConfig(**config), should_stop=lambda: False
    )


def test_greedy_is_what_transformers_generates(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tiny_model.generate(torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False)
    expected = tiny_tokenizer.decode(tokens[0, len(PROMPT) :], skip_special_tokens=True)
    answer = stream(tiny_model, tiny_tokenizer, max_tokens=24)
    assert "".join(answer) == expected
    assert answer.tokens == tokens.shape[1] - len(PROMPT)


def test_sampling_differs_from_greedy_and_follows_the_global_seed(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def sample(seed: int) -> str:
        torch.manual_seed(seed)
        return "".join(stream(tiny_model, tiny_tokenizer, max_tokens=24, temperature=1.0))

    greedy = "".join(stream(tiny_model, tiny_tokenizer, max_tokens=24))
    assert sample(1) == sample(1)
    assert len({sample(1), sample(2), greedy}) == 3


def test_an_abandoned_answer_ends_its_thread(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = threading.active_count()
    pieces = iter(stream(tiny_model, tiny_tokenizer, max_tokens=200))
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_it_stops_at_the_next_token_when_asked(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = []

    def after_five() -> bool:
        asked.append(None)
        return len(asked) >= 5

    config = GenerationConfig(max_tokens=200)
    answer = TokenStream(tiny_model, tiny_tokenizer, PROMPT, config, should_stop=after_five)
    assert list(answer)
    assert answer.tokens == 5


def test_a_failure_while_generating_surfaces_at_once(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        msg = "no memory"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(tiny_model, "generate", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        list(stream(tiny_model, tiny_tokenizer, max_tokens=5))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), "one two three"),
        (("two",), "one "),
        (("three", "two"), "one "),
        (("thr", "ee"), "one two "),
        (("four",), "one two three"),
        (("o",), ""),
    ],
)
def test_the_text_ends_before_a_stop_string_wherever_the_pieces_break(
    size: int, stop: tuple[str, ...], expected: str
) -> None:
    text = "one two three"
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    assert "".join(_until(pieces, stop)) == expected
