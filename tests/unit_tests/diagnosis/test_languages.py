"""Detect the languages of a store's texts."""

from __future__ import annotations

import pytest

from langchain_sift.diagnosis.languages import languages_of

ENGLISH = "The river carries warm bread to the old king, and nobody knows why he wants it."
GERMAN = "Der Fluss trägt warmes Brot zum alten König, und niemand weiß, warum er es will."
CHINESE = "河流把温暖的面包送给老国王，没有人知道他为什么想要它。"


def test_each_language_has_its_share_the_most_frequent_first() -> None:
    found = languages_of([ENGLISH, ENGLISH, ENGLISH, GERMAN, GERMAN, CHINESE])
    assert list(found) == ["en", "de", "zh"]
    assert found["en"] == pytest.approx(0.5)
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_text_without_words_has_no_language() -> None:
    assert set(languages_of(["1 + 2 = 3"])) <= {"und", "zxx"}
