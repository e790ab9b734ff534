"""Names of the fields of a question in common datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CHOICES = ("choices", "options", "endings")
FROM_0_OR_1 = ("cop", "gold_label")
"""Indices of the correct choice that some files count from 0 and others from 1: in MedMCQA those of
the Hugging Face hub and of the makers."""

CORRECT = (
    "correct",
    "answerKey",
    "answer_idx",
    "answer_index",
    "correct_option",
    "correct_answer_num",
    "correct_answer_id",
    "gold",
    *FROM_0_OR_1,
)
REFERENCES = (
    "ground_truth",
    "ground_truths",
    "reference_answer",
    "expected_answer",
    "expected_output",
    "gold_answer",
)
"""Names of correct answers beside which an answer under `OF_SYSTEMS` is that of a system."""

OF_SYSTEMS = ("answer", "response", "output", "completion")
"""Names of the answer of a system, as in RAGAS, or of a correct one if there is no reference."""

ANSWERS = (
    *REFERENCES,
    "answers",
    "answer",
    "target",
    "targets",
    "label",
    "possible_answers",
    "answers_spans",
    "answer_number",
    "final_decision",
    "completion",
    "output",
    "response",
)
"""Names of the correct answers, the first of those that a row has."""

QUESTIONS = (
    "question",
    "user_input",
    "ctx",
    "question_stem",
    "question_text",
    "query",
    "query_text",
    "problem",
    "prompt",
    "instruction",
    "goal",
    "sentence",
    "startphrase",
    "sent1",
    "input",
    "inputs",
    "text",
)
"""Names of the question, the first of those that a row has. A text is one only alone: beside a
question it is a passage, or in Alpaca the question with its answer."""

PASSAGES = ("context", "passage", "article", "story", "text", "flores_passage", "dialogue")
"""What a question is about. It is a part of a question with choices, such as "Which follows?"."""

_KNOWN = {name.casefold(): name for name in (*CHOICES, *CORRECT, *ANSWERS, *QUESTIONS)}


def with_ground_truth(names: Sequence[str]) -> list[str]:
    """Return names in which the "reference" beside a "user_input", as in RAGAS, is a reference."""
    folded = [field_name(name) for name in names]
    is_ragas = "user_input" in folded and REFERENCES[0] not in folded
    return [
        REFERENCES[0] if is_ragas and name == "reference" else given
        for given, name in zip(names, folded, strict=True)
    ]


def with_named_reference(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row with the names of `with_ground_truth`."""
    return dict(zip(with_ground_truth([*row]), row.values(), strict=True))


def field_name(key: str) -> str:
    """Return the name of a field, without case and spaces; a letter, as of a choice, as it is."""
    if len(key.strip()) == 1:
        return key.strip()
    folded = key.strip().casefold().replace(" ", "_")
    return _KNOWN.get(folded, folded)
