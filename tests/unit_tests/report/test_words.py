"""Test that texts of any language are compared word by word."""

from __future__ import annotations

import re
import string

import pytest
from declaration import DECLARATION
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison.leaks import find_leaks
from langchain_sift.report.metrics import contains_answer, exact_match, token_f1
from langchain_sift.report.words import normalized, words_of


def normalized_by_squad(text: str) -> str:
    """The official script of SQuAD 1.1, `normalize_answer`."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_normalized_as_in_squad(text: str) -> None:
    expected = normalized_by_squad(text)
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    assert normalized(text) == (expected or " ".join(bare.split() or text.lower().split()))


@given(st.text(), st.text())
def test_scores_are_symmetric_and_a_text_equals_itself(one: str, other: str) -> None:
    assert exact_match(one, [one]) == token_f1(one, [one]) == 1.0
    assert token_f1(one, [other]) == pytest.approx(token_f1(other, [one]))
    assert exact_match(one, [other]) == exact_match(other, [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Côte d'Ivoire", "Co\u0302te d\u2019Ivoire"),
        ("ＡＢＣ１２３", "abc123"),
        ("the O\u02bcHiggins “Straße”", "o'higgins STRASSE"),
        ("3\u20135 km", "3-5 km"),
        ("¿Dónde?", "dónde"),
        ("「東京」", "東京。"),
        ("(A)", "A."),  # a letter, and no article
    ],
)
def test_forms_of_the_same_answer_are_equal(one: str, other: str) -> None:
    assert exact_match(one, [other]) == token_f1(one, [other]) == contains_answer(one, [other]) == 1


@pytest.mark.parametrize(
    ("answer", "reference"), [("!", "?"), ("The The", "A"), ("+", "-"), ("", "the")]
)
def test_different_answers_of_punctuation_differ(answer: str, reference: str) -> None:
    assert exact_match(answer, [reference]) == 0.0


def test_words_of_a_script_without_spaces_are_its_characters() -> None:
    assert words_of("東京タワー 333m。") == ["東", "京", "タ", "ワ", "ー", "333m"]
    # Two of three characters of the answer, and two of four of the reference.
    assert token_f1("北京市", ["北京大学"]) == pytest.approx(2 * 2 / (3 + 4))
    assert contains_answer("首都是北京。", ["北京"]) == 1.0


def test_signs_that_only_tell_how_others_are_shown_do_not_count() -> None:
    for answer, reference in (
        ("\u200fالقاهرة\u200f", "القاهرة"),
        ("می\u200cخواهم", "میخواهم"),
        ("ක්\u200dෂය", "ක්ෂය"),
        ("exam\u00adple", "example"),
        ("ភ្នំ\u200bពេញ", "ភ្នំពេញ"),
    ):
        assert exact_match(answer, [reference]) == token_f1(answer, [reference]) == 1.0
        assert words_of(answer) == words_of(reference)


def test_vowel_signs_do_not_cut_words() -> None:
    assert words_of("हिन्दी में") == ["हिन्दी", "में"]


def test_every_language_is_scored() -> None:
    assert len(DECLARATION) >= 60
    for text in DECLARATION.values():
        check_scores(text)


def check_scores(text: str) -> None:
    words = normalized(text).split()
    assert len(words) >= 8
    part = " ".join(words[:4])
    assert exact_match(text, [text.rstrip(".。।؟։")]) == 1.0
    assert contains_answer(text, [part]) == 1.0
    assert 0.0 < token_f1(part, [text]) < 1.0
    assert contains_answer(part, [text]) == 0.0


def test_leaks_are_found_in_every_language() -> None:
    for language, text in DECLARATION.items():
        others = [(name, other) for name, other in DECLARATION.items() if name != language]
        found = find_leaks({"prompt": text}, others)
        assert found.keys() <= ({"prompt"} if "Chinese" in language else set()), language
        inside = [("copy", f"1) {text} (2)")]
        assert find_leaks({"prompt": text}, inside) == {"prompt": "an exact copy in copy"}
