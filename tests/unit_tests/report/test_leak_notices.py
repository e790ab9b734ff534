"""Test the sentence on prompts that leak."""

from __future__ import annotations

from langchain_sift.report.leak_notices import LEARNED, joined, leak_notice


def test_a_prompt_may_be_stored_and_learned() -> None:
    leaks = joined({"a": "an exact copy in d", "b": "half in e"}, {"b": LEARNED, "c": LEARNED})
    assert leaks == {"a": "an exact copy in d", "b": f"half in e; {LEARNED}", "c": LEARNED}
    assert leak_notice(leaks, 9, excluded=True) == (
        "the store contains the scored text of 2 of 9 prompts, and the model has learned the "
        "questions of 2 of 9 prompts; they are excluded."
    )
    assert leak_notice({"c": LEARNED}, 4, excluded=False) == (
        "the model has learned the questions of 1 of 4 prompts."
    )
