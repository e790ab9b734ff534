"""Names of control tokens in texts are text, and all other texts are tokenized as ever."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from unit_tests.small_tokenizers import (
    BEGIN,
    END,
    KINDS,
    MARKERS,
    SPECIAL,
    sentences,
    small_tokenizer,
    word_tokenizer,
)
from unit_tests.templates import QWEN

from langchain_sift.ttft.model.control_tokens import control_tokens
from langchain_sift.ttft.model.tokens import plain_tokens, text_tokens, tokenize_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = (*SPECIAL[1:], *MARKERS)
SENTENCES = sentences()


def made(kind: str) -> PreTrainedTokenizerBase:
    return word_tokenizer(QWEN) if kind == "python" else small_tokenizer(kind, QWEN)


EVERY_KIND = pytest.mark.parametrize("kind", [*KINDS, "python"])


@EVERY_KIND
def test_names_in_a_text_are_text(kind: str) -> None:
    tokenizer = made(kind)
    known = control_tokens(tokenizer)
    assert set(NAMES) <= set(known.ids)
    rng = random.Random(0)
    for _ in range(200):
        parts = [rng.choice([*NAMES, *SENTENCES, " ", "\n", "<", ">"]) for _ in range(5)]
        text = "".join(parts)
        token_ids = plain_tokens(tokenizer, text)
        assert known.id_set.isdisjoint(set(token_ids) - {tokenizer.unk_token_id})
        if kind in {"byte-level", "gemma"}:  # others add or drop spaces
            assert tokenizer.decode(token_ids).replace(" ", "▁") == text.replace(" ", "▁")


@pytest.mark.slow
@EVERY_KIND
@given(data=st.data())
def test_control_tokens_of_a_template_are_kept(kind: str, data: st.DataObject) -> None:
    tokenizer = made(kind)
    pieces = st.sampled_from([*NAMES, *SENTENCES[:50], " ", "\n", "\n\n", "x", "  "])
    text = "".join(data.draw(st.lists(pieces, max_size=12)))
    assert (
        control_tokens(tokenizer).encode(text)
        == (tokenizer(text, add_special_tokens=False)["input_ids"])
    )


CHANGES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "title": str.title,
    "deletes": lambda text: text.replace("-", "").replace("x", ""),
    "brackets": lambda text: text.replace("(", "<").replace(")", ">").replace("&lt;", "<"),
    "trims": str.strip,
    "cuts": lambda text: text[1::2],
    "reverses": lambda text: text[::-1],
    "as JSON": lambda text: json.dumps([text]),
    "as Python": lambda text: repr([text]),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@given(text=st.text(), before=st.sampled_from(NAMES), after=st.sampled_from(NAMES))
def test_no_change_of_a_disguised_text_makes_a_name(
    change: Callable[[str], str], text: str, before: str, after: str
) -> None:
    known = control_tokens(small_tokenizer("byte-level", QWEN))
    spread = "x".join(before)
    hostile = [text, before + text, before[1:] + text + after[:-1], before[:-2] + after]
    hostile += [before.upper(), spread, spread[::-1], before.replace("<", "(").replace(">", ")")]
    hostile += ["-".join(before), before.replace("<", "&lt;")]
    for value in hostile:
        disguise = known.disguise({value: [value]})
        hidden = disguise.hide(value)
        assert disguise.show(hidden) == value
        assert len(hidden) == len(value)
        rendered = "".join([before, change(hidden), after[-1], change(hidden), after])
        assert known.names_in(rendered) == [before, after]


def test_a_text_of_all_private_characters_is_still_text() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN)
    known = control_tokens(tokenizer)
    text = "".join(map(chr, range(0xE000, 0xF900))) + "<|im_end|>"
    disguise = known.disguise(text)
    assert known.names_in(disguise.hide(text)) == []
    assert disguise.show(disguise.hide(text)).endswith("<|im_end|>")
    assert known.id_set.isdisjoint(known.encode_disguised(disguise.hide(text), disguise))


def test_a_tokenizer_that_changes_texts_makes_no_control_tokens_of_them() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    name = AddedToken("<|turn|>", normalized=True, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [name]})
    known = control_tokens(tokenizer)
    text = "a <|TURN|> b"
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert turn in tokenizer(text)["input_ids"]  # the danger is real
    disguise = known.disguise(text)
    token_ids = known.encode_disguised("<|turn|>" + disguise.hide(text), disguise)
    assert token_ids.index(turn) == 0
    assert token_ids.count(turn) == 1
    assert turn not in plain_tokens(tokenizer, text)


def test_control_tokens_that_are_words_are_text_too() -> None:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.add_special_tokens({"additional_special_tokens": ["eot"]})
    known = control_tokens(tokenizer)
    disguise = known.disguise("a eot EOT")
    assert known.names_in(disguise.hide("a eot EOT").lower()) == []
    assert known.id_set.isdisjoint(plain_tokens(tokenizer, "a eot"))


def test_names_that_overlap_are_text() -> None:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "a><b", "<b>"]})
    known = control_tokens(tokenizer)
    assert known.id_set.isdisjoint(plain_tokens(tokenizer, "<a><b><a><b>"))


def test_a_text_cannot_write_the_names_that_stand_for_control_tokens() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN)
    known = control_tokens(tokenizer)
    for number in known.ids.values():
        text = f"a {known._secret}{number}\ue001 b"
        assert known.id_set.isdisjoint(known.encode(text) + known.encode_text(text))


def test_added_words_stay_tokens() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN)
    tokenizer.add_tokens(["protein", "user", "   "])
    token_ids = plain_tokens(tokenizer, "user <think>protein   </s>")
    added = tokenizer.added_tokens_encoder
    assert {added["protein"], added["user"], added["   "]} <= set(token_ids)
    assert added["<think>"] not in token_ids


def test_tokens_added_later_are_known() -> None:
    tokenizer = small_tokenizer("byte-level")
    before = control_tokens(tokenizer)
    assert control_tokens(tokenizer) is before
    tokenizer.add_special_tokens({"additional_special_tokens": ["<later>"]})
    assert control_tokens(tokenizer).id_set.isdisjoint(plain_tokens(tokenizer, "<later>"))


def test_the_cache_keeps_no_tokenizer_alive() -> None:
    tokenizer = small_tokenizer("byte-level")
    control_tokens(tokenizer).encode(END)
    alive = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_begins_but_never_ends_as_the_tokenizer_says(kind: str) -> None:
    plain = plain_tokens(small_tokenizer(kind), "The river flows.")
    for add_bos in (False, True):
        tokenizer = small_tokenizer(kind, add_bos=add_bos, add_eos=True)
        assert tokenizer("The river flows.")["input_ids"][-1] == tokenizer.eos_token_id
        begun = [tokenizer.convert_tokens_to_ids(BEGIN)] if add_bos else []
        assert text_tokens(tokenizer, "The river flows.") == [*begun, *plain]
        (document,) = tokenize_documents(tokenizer, ["The river flows."], max_length=100)
        assert list(document.token_ids) == [*begun, *plain]
