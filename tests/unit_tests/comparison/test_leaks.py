"""Copies of what is scored are found in the store, whole and in part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison.leaks import NEAR, SHINGLE, find_leaks

words = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=40)


def shingles(text: list[str]) -> set[tuple[str, ...]]:
    length = min(SHINGLE, len(text))
    return {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}


def test_a_copy_is_found_whatever_its_case_and_punctuation() -> None:
    scored = {
        "p": "The quick brown fox jumps over the lazy dog near the river bank.",
        "q": "Nothing like it is in there at all, or is it?",
    }
    documents = [
        ("far", "Another text about foxes that jump over dogs and other animals."),
        ("near", "Intro. the QUICK brown fox; jumps over the lazy dog, near the river bank"),
    ]
    assert find_leaks(scored, documents) == {"p": "an exact copy in near"}


@given(text=words, documents=st.lists(words, max_size=5), part=st.integers(0, 40))
def test_shares_are_those_of_runs_of_words(
    text: list[str], documents: list[list[str]], part: int
) -> None:
    documents = [*documents, text[:part] or ["z"]]
    named = [(str(n), " ".join(document)) for n, document in enumerate(documents)]
    found = find_leaks({"p": " ".join(text)}, named)
    own = shingles(text)
    shares = [len(own & shingles(document)) / len(own) for document in documents]
    assert ("p" in found) == (max(shares) >= NEAR)
    if "p" in found:
        place = found["p"].rsplit(" ", 1)[1]
        assert shares[int(place)] == max(shares)
        assert ("exact" in found["p"]) == (max(shares) == 1.0)
