"""Put answers side by side."""

from __future__ import annotations

from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row
from langchain_sift.report.side_by_side import MethodAnswer, answers_of


def answered(method: str, prompt: str, answer: str | None, **more: object) -> Row:
    return Row("qa", prompt, "all", method, answer=answer, **more)  # type: ignore[arg-type]


def test_the_answers_to_a_question_stand_together_in_the_order_of_the_methods() -> None:
    rows = (
        answered("base", "p1", "no", scores={"contains": 0.0}),
        answered("rag:sift", "p1", "It is 42.", scores={"contains": 1.0}),
        answered("base", "p2", "", scores={}),
        answered("rag:sift", "p2", None, failure="too long"),
        answered("base", "p3", None),
    )
    report = Report(rows, prompt_texts={"p1": "Which number?"}, references={"p1": "42"})
    first, second = answers_of(report, count=9)
    assert (first.question, first.reference) == ("Which number?", "42")
    assert first.answers == (
        MethodAnswer("base", "no", is_right=False),
        MethodAnswer("rag:sift", "It is 42.", is_right=True),
    )
    assert (second.question, second.reference) == ("p2", "")
    assert second.answers == (MethodAnswer("base", "", None),)
    assert answers_of(report, count=1) == [first]
