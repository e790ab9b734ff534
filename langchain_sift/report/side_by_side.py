"""Put the answers of all methods to a question side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row

_CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """The answer of a method."""

    method: str
    text: str
    is_right: bool | None
    """True if it contains a reference answer. None if there is none."""


@dataclass(frozen=True, slots=True)
class QuestionAnswers:
    """A question, and the answers of the methods."""

    question: str
    reference: str
    """A correct answer; empty if none is known."""

    answers: tuple[MethodAnswer, ...]


def answers_of(report: Report, *, count: int) -> list[QuestionAnswers]:
    """Return the answers to the first questions that were answered, at most `count`."""
    found: list[QuestionAnswers] = []
    for prompt, rows in _rows_by_prompt(report):
        answers = tuple(
            MethodAnswer(row.method, row.answer, _is_right(row))
            for row in rows
            if row.answer is not None and row.failure is None
        )
        if answers and len(found) < count:
            question = report.prompt_texts.get(prompt, prompt)
            found.append(QuestionAnswers(question, report.references.get(prompt, ""), answers))
    return found


def _rows_by_prompt(report: Report) -> Iterator[tuple[str, list[Row]]]:
    for protocol in report.protocols:
        rows: dict[str, list[Row]] = {}
        for row in report.select(protocol):
            rows.setdefault(row.prompt, []).append(row)
        yield from rows.items()


def _is_right(row: Row) -> bool | None:
    score = row.scores.get(_CONTAINS)
    return None if score is None else score == 1.0
