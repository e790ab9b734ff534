"""A prompt is a query, a context and a target, as its protocol says."""

from __future__ import annotations

import unicodedata

import pytest
from declaration import DECLARATION
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.tasks import (
    continuation_task,
    document_task,
    parse_protocols,
    unscored_note,
)
from langchain_sift.errors import ArgumentError


def test_the_document_protocol_retrieves_with_the_text_it_scores() -> None:
    task = document_task(Prompt("p", "some text"))
    assert (task.query, task.context, task.target) == ("some text", "", "some text")


@pytest.mark.parametrize(
    ("answers", "protocols", "note"),
    [
        (("wet",), ("document", "continuation"), "answers, which are not used"),
        (("wet",), ("document", "qa"), None),
        (("wet",), ("retrieval",), None),
        ((), ("document",), None),
        ((), ("qa",), "1 of 2 prompts have neither"),
    ],
)
def test_a_note_names_answers_that_are_not_used_or_missing(
    answers: tuple[str, ...], protocols: tuple[str, ...], note: str | None
) -> None:
    prompts = [Prompt("p", "Where does rice grow?", answers=answers)]
    if "qa" in protocols:
        prompts.append(Prompt("q", "When?", answers=("in May",)))
    notes = unscored_note(prompts, protocols)
    assert len(notes) == (note is not None)
    assert all(note in each for each in notes if note)


@given(st.lists(st.text("abc", min_size=1), min_size=2, max_size=30))
def test_a_continuation_is_cut_near_the_middle_between_two_words(words: list[str]) -> None:
    text = " ".join(words)
    task = continuation_task(Prompt("p", text))
    assert task.context + task.target == text
    assert task.query == task.context
    assert task.target[0] == " "
    assert task.context.split() + task.target.split() == words
    assert abs(len(task.context) - len(text) / 2) <= max(len(word) for word in words) + 1


def test_a_single_word_has_no_continuation() -> None:
    with pytest.raises(ArgumentError, match="single word"):
        continuation_task(Prompt("p", "word"))


def test_a_protocol_that_does_not_exist_is_rejected() -> None:
    assert parse_protocols(["qa", "qa", "document"]) == ("qa", "document")
    with pytest.raises(ArgumentError, match=r"'paper'.*document, continuation, qa"):
        parse_protocols(["paper"])


def test_a_text_without_spaces_is_cut_at_its_middle() -> None:
    text = "水稻是一种草本植物，生长在温暖潮湿的田地里，需要大量的水。\n"
    task = continuation_task(Prompt("p", text))
    assert task.context + (task.target or "") == text
    assert len(task.context) == len(text) // 2


@pytest.mark.parametrize("language", DECLARATION)
def test_a_text_of_any_language_has_a_continuation_of_half_of_it(language: str) -> None:
    text = DECLARATION[language]
    task = continuation_task(Prompt("p", text))
    assert task.context + (task.target or "") == text
    assert len(task.context) / len(text) == pytest.approx(0.5, abs=0.1)
    first = (task.target or "").lstrip()[0]
    assert unicodedata.category(first)[0] != "M"  # no mark is cut off from its letter
