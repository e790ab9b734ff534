"""Compare the grades of a judge with exact match, to show whether the judge can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
    failures = Counter(row.judge_failure for row in rows if row.judge_failure)
    if failures:
        (reason, count), total = failures.most_common(1)[0], failures.total()
        times = "once" if count == 1 else f"{count} times"
        notes.append(
            f"The judge {judge} gave no grade to {total} answer{'s' * (total > 1)}, {times} for "
            f"this reason: {reason}"
        )
    return notes


def _warning(exact: int, rejected: int) -> str:
    """Return what the answers that match exactly say about the judge; "" if it accepts them."""
    if not exact:
        return " No answer matches exactly, so nothing shows that it can be trusted."
    return " A judge that rejects exact matches cannot be trusted." if rejected else ""
