"""Note empty answers, which show that `max_tokens` is too small."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_sift.report.rows import Row


def empty_answer_notes(rows: Sequence[Row], max_tokens: int) -> list[str]:
    """Return a sentence on the answers that reasoning left no room for; none if there are none.

    Args:
        rows: All rows of a report.
        max_tokens: Maximum number of tokens of an answer, reasoning included.
    """
    answers = [row for row in rows if row.answer is not None and row.failure is None]
    empty = sum(row.answer == "" and row.tokens_answer >= max_tokens for row in answers)
    if not empty:
        return []
    return [
        f"{empty} of {len(answers)} answers are empty after {max_tokens} tokens, as those of a "
        "model that reasons for longer: raise --max-tokens, or turn its reasoning off "
        "(--chat-template-kwargs)."
    ]
