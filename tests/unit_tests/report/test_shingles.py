"""Test the runs of words that texts are compared by."""

from __future__ import annotations

import pytest

from langchain_sift.report.shingles import shingles_of


@pytest.mark.parametrize(
    ("text", "shingles"),
    [
        ("One, two THREE. Four!", {"one two three", "two three four"}),
        ("Too short", {"too short"}),
        ("a a a a", {"a a a"}),
        ("?!", set()),
        ("", set()),
    ],
)
def test_shingles_are_all_runs_of_words(text: str, shingles: set[str]) -> None:
    assert shingles_of(text, 3) == shingles
