"""Test that answers are scored as in the evaluation of SQuAD."""

from __future__ import annotations

import pytest

from langchain_sift.report.metrics import contains_answer, exact_match, token_f1


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1", "contained"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0, 1.0, 1.0),
        ("in Paris, France", ["Paris"], 0.0, 0.5, 1.0),
        ("308", ["three hundred", "308 AD"], 0.0, 2 / 3, 0.0),
        ("", ["Paris"], 0.0, 0.0, 0.0),
        ("Parisian", ["Paris"], 0.0, 0.0, 0.0),
        ("cat cat dog", ["cat dog dog"], 0.0, 2 / 3, 0.0),
        ("anything", [], 0.0, 0.0, 0.0),
    ],
)
def test_an_answer_is_scored_against_its_references(
    answer: str, references: list[str], exact: float, f1: float, contained: float
) -> None:
    assert exact_match(answer, references) == exact
    assert token_f1(answer, references) == pytest.approx(f1)
    assert contains_answer(answer, references) == contained
