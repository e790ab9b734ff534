"""Exclude texts by regular expressions, within the quotas of Chroma Cloud."""

from __future__ import annotations

import re
from typing import Any

import chromadb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.errors import InvalidFilter
from langchain_sift.stores.adapters.chroma_filters import conditions_of, without_texts

NASTY = [
    "yes",
    "yes sir",
    "a.b*c+d?e|f(g)h[i]j{k}l^m$n#o&p-q~r\\s",
    "two\nlines\tand a tab",
    "50% of a_b, 'quoted' and \"double\"",
    "café 中文 résumé 🙂",
    " spaces around ",
    "(?i)x",
    "a" * 2000,
    "a" * 2001,
    "long " * 300 + "and its own end",
]


def parts(conditions: Any) -> list[dict[str, str]]:
    condition = conditions["where_document"]
    found: list[dict[str, str]] = condition.get("$and", [condition])
    return found


def patterns(conditions: Any) -> list[str]:
    return [part["$not_regex"] for part in parts(conditions) if "$not_regex" in part]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=120, unique=True))
def test_the_first_texts_are_excluded_within_the_quotas(texts: list[str]) -> None:
    found = patterns(without_texts(conditions_of(None, None), texts))
    assert len(found) <= 8
    assert max(len(pattern.encode()) for pattern in found) <= 256
    # Python's $ also matches before a line feed at the end, Rust's does not.
    matches = [
        any(re.search(pattern.removesuffix("$") + r"\Z", text) for pattern in found)
        for text in texts
    ]
    assert all(matches[: min(40, len(texts))])


@pytest.mark.parametrize("text", NASTY)
def test_chroma_excludes_the_text_and_no_other(text: str) -> None:
    client = chromadb.EphemeralClient()
    name = f"facts-{np.random.default_rng().integers(1 << 60)}"
    collection = client.create_collection(name, embedding_function=None)
    collection.add(ids=NASTY, documents=NASTY, embeddings=np.eye(len(NASTY)))
    query: Any = {"query_embeddings": np.ones((1, len(NASTY))), "n_results": len(NASTY)}
    found = collection.query(**query, **without_texts(conditions_of(None, None), [text]))["ids"][0]
    assert {*NASTY} - {*found} >= {text}
    # Texts of more than 256 bytes that begin and end alike cannot be told apart.
    alike = {other for other in NASTY if other[:100] == text[:100] and other[-100:] == text[-100:]}
    assert {*NASTY} - {*found} <= alike
    without_all = without_texts(conditions_of(None, None), NASTY)
    assert collection.query(**query, **without_all)["ids"] == [[]]
    client.delete_collection(name)


def test_other_conditions_stay_and_count() -> None:
    conditions = conditions_of({"a": 1, "$or": [{"b": 2}, {"c": 3}]}, {"$contains": "x"})
    excluded = [f"text {number} " + "y" * 300 for number in range(100)]
    restricted = without_texts(conditions, excluded)
    assert restricted["where"] == conditions["where"]
    assert len(patterns(restricted)) == 4
    assert parts(restricted)[-1] == {"$contains": "x"}
    assert without_texts(conditions, []) == conditions
    many = conditions_of({str(number): number for number in range(8)}, None)
    with pytest.raises(InvalidFilter, match="8 conditions or more: no text can be excluded"):
        without_texts(many, excluded)


@pytest.mark.parametrize("nothing", [0, "", [], False])
def test_what_is_no_dictionary_is_refused(nothing: Any) -> None:
    for arguments in ((nothing, None), (None, nothing)):
        with pytest.raises(InvalidFilter, match=f"must be a dict, got {type(nothing).__name__}"):
            conditions_of(*arguments)
    assert conditions_of({}, {}) == conditions_of(None, None)
