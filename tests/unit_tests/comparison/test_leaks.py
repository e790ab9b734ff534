"""Copies of a scored text are found in the store, whole and in part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison.leaks import NEAR, SHINGLE, find_leaks

words = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=40)


def shingles(text: list[str]) -> set[tuple[str, ...]]:
    length = min(SHINGLE, len(text))
    return {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}


def test_a_copy_is_found_despite_other_case_and_punctuation() -> None:
    scored = {
        "p": "The quick brown fox jumps over the lazy dog near the river bank.",
        "q": "Nothing like it is in there at all, or is it?",
    }
    documents = [
        ("far", "Another text about foxes that jump over dogs and other animals."),
        ("near", "Intro. the QUICK brown fox; jumps over the lazy dog, near the river bank"),
    ]
    assert find_leaks(scored, documents) == {"p": "an exact copy in near"}


def test_a_text_that_was_split_is_found_in_its_parts() -> None:
    text = [f"word{n}" for n in range(120)]
    parts = [" ".join(text[start : start + 30]) for start in range(0, 120, 30)]
    leaks = find_leaks({"p": " ".join(text)}, zip("abcd", parts, strict=True))
    kept = 4 * len(shingles(text[:30])) / len(shingles(text))
    assert leaks == {"p": f"{kept:.0%} of it in several documents, the largest part in a"}
    assert find_leaks({"p": " ".join(text)}, [("a", parts[0])]) == {}


@given(text=words, documents=st.lists(words, max_size=5), part=st.integers(0, 40))
def test_fractions_are_those_of_runs_of_words(
    text: list[str], documents: list[list[str]], part: int
) -> None:
    documents = [*documents, text[:part] or ["z"]]
    named = [(str(n), " ".join(document)) for n, document in enumerate(documents)]
    leaks = find_leaks({"p": " ".join(text)}, named)
    runs = shingles(text)
    parts = [runs & shingles(document) for document in documents]
    shares = [len(part) / len(runs) for part in parts]
    together = len(set().union(*parts)) / len(runs)
    assert ("p" in leaks) == (together >= NEAR)
    if "p" in leaks:
        assert ("several documents" in leaks["p"]) == (max(shares) < min(together, 1.0))
        index = leaks["p"].rsplit(" ", 1)[1]
        assert shares[int(index)] == max(shares)
        assert ("exact" in leaks["p"]) == (max(shares) == 1.0)
