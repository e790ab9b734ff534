"""Compare the grades of a judge with exact match, to show whether the judge can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from langchain_sift.report.counts import counted
from langchain_sift.report.rows import Row

CORRECT = "judged_correct"
"""1 if the judge finds that the answer agrees with a reference, else 0."""

FAITHFUL = "judged_faithful"
"""1 if the judge finds that the documents shown support the answer, else 0."""


def judge_notes(rows: Sequence[Row], judge: str) -> list[str]:
    """Return sentences on the judge: its agreement with exact match, and its failures.

    Args:
        rows: All rows of a report.
        judge: Name of the judge.
    """
    notes = []
    # The judge is not asked about an empty answer.
    asked = [row for row in rows if row.answer != ""]
    graded = [row for row in asked if CORRECT in row.scores and "exact_match" in row.scores]
    if graded:
        cells = Counter(
            (row.scores["exact_match"] == 1, row.scores[CORRECT] == 1) for row in graded
        )
        exact = cells[True, True] + cells[True, False]
        rejected = cells[True, False]
        agreed = cells[True, True] + cells[False, False]
        notes.append(
            f"The judge {judge} agrees with exact match on {agreed} of {len(graded)} answers: it "
            f"accepts {cells[True, True]} of the {exact} that match exactly, and "
            f"{cells[False, True]} of the {len(graded) - exact} others.{_warning(exact, rejected)}"
        )
    failures = [row.judge_failure for row in rows if row.judge_failure]
    if failures:
        kind, count = Counter(map(_kind, failures)).most_common(1)[0]
        reason = next(failure for failure in failures if _kind(failure) == kind)
        times = "once" if count == 1 else f"{count} times"
        notes.append(
            f"The judge {judge} gave no grade to {counted(len(failures), 'answer')} "
            f"({_by_method(asked)}), {times} for this reason: {reason}"
        )
    return notes


def _kind(failure: str) -> str:
    """Return a reason without the value that the judge replied with."""
    return failure.partition(", got ")[0]


def _by_method(asked: Sequence[Row]) -> str:
    """Return how many answers of each method have no grade, in words."""
    answers = Counter(
        row.method for row in asked if row.judge_failure or {CORRECT, FAITHFUL} & {*row.scores}
    )
    failures = Counter(row.method for row in asked if row.judge_failure)
    return ", ".join(f"{name}: {count} of {answers[name]}" for name, count in failures.items())


def without_ungraded(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return rows in which empty answers have no grade if the judge graded no other answer.

    An empty answer is not correct, and the judge is not asked about it. Where the judge failed on
    all other answers of a method, a mean of the empty ones would say nothing.
    """
    rows = tuple(rows)
    asked = [row for row in rows if row.answer != ""]
    failed = {(row.method, row.k) for row in asked if row.judge_failure}
    ungraded = failed - {(row.method, row.k) for row in asked if CORRECT in row.scores}
    return tuple(
        replace(row, scores={name: row.scores[name] for name in row.scores if name != CORRECT})
        if row.answer == "" and (row.method, row.k) in ungraded
        else row
        for row in rows
    )


def _warning(exact: int, rejected: int) -> str:
    """Return what the answers that match exactly say about the judge; "" if it accepts them."""
    if not exact:
        return " No answer matches exactly, so nothing shows that it can be trusted."
    return " A judge that rejects exact matches cannot be trusted." if rejected else ""
