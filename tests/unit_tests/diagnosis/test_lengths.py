"""Measure lengths with the tokenizer of the embeddings, against what they read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from langchain_sift import HiddenStateEmbeddings
from langchain_sift.diagnosis.lengths import measure_lengths, token_limit_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def test_what_hidden_states_do_not_read_is_counted(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    embeddings = HiddenStateEmbeddings(tiny_model, tiny_tokenizer, max_length=20).fit(texts)
    found = measure_lengths(texts, embeddings)
    lengths = np.array([len(tiny_tokenizer(text)["input_ids"]) for text in texts])
    assert (found.unit, found.limit, found.longest) == ("tokens", 20, lengths.max())
    assert found.median == pytest.approx(np.median(lengths))
    assert found.cut_texts == pytest.approx((lengths > 20).mean())
    assert found.cut_share == pytest.approx(1 - np.minimum(lengths, 20).sum() / lengths.sum())
    # A text is embedded as its first 20 tokens are.
    longest = max(texts, key=len)
    beginning = tiny_tokenizer.decode(tiny_tokenizer(longest)["input_ids"][:20])
    vectors = embeddings.embed_documents([longest, beginning])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_the_limit_is_found_where_embeddings_of_other_packages_keep_it(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    client = SimpleNamespace(tokenizer=tiny_tokenizer, max_seq_length=7)
    for embeddings in (SimpleNamespace(_client=client), SimpleNamespace(client=client)):
        assert measure_lengths(["a b c d e f g h i j k l"], embeddings).limit == 7
    shown = SimpleNamespace(tokenizer=tiny_tokenizer)
    assert measure_lengths(["a"], shown).limit == 256  # the tokenizer's own
    unlimited = SimpleNamespace(model_max_length=10**30)
    assert token_limit_of(shown, unlimited) is None


@pytest.mark.parametrize("embeddings", [None, object(), SimpleNamespace(client=object())])
def test_without_a_tokenizer_characters_are_counted(embeddings: object) -> None:
    found = measure_lengths(["abc", "abcdefg"], embeddings)
    assert (found.unit, found.longest, found.limit) == ("characters", 7, None)
    assert (found.cut_texts, found.cut_share) == (None, None)
