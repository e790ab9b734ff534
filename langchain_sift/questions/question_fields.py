"""Give the fields of a question the same names, whichever dataset they are from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from langchain_sift.questions.answer_objects import (
    answers_of_annotations,
    answers_of_drop,
    is_of_drop,
)
from langchain_sift.questions.choice_forms import choices_in_columns, marked_choices
from langchain_sift.questions.field_names import (
    ANSWERS,
    CHOICES,
    CORRECT,
    FROM_0_OR_1,
    PASSAGES,
    QUESTIONS,
    field_name,
    with_named_reference,
)
from langchain_sift.questions.literals import literal

_PREMISES = ("premise", "body")
"""What each question is a part of."""

_ASKED = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
"""The questions of COPA, as its authors ask them (Roemmele et al. 2011)."""

_SCORED_CHOICES = {
    "mc1_targets": "labels",
    "target_scores": "labels",
    "multiple_choice_targets": "multiple_choice_scores",
}
_LISTS_OF_TEXTS = (
    "answers",
    "targets",
    "ground_truths",
    "possible_answers",
    "correct_answers",
    "answer_aliases",
)
_LISTS_OF_CHOICES = (*CHOICES, "choice", *_SCORED_CHOICES, *_SCORED_CHOICES.values())
_LISTS = (*_LISTS_OF_CHOICES, *_LISTS_OF_TEXTS, "relevant")
_WRONG = re.compile(r"(?:distractor|incorrect_answer)_?\d")


def question_fields(row: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a question under the names that `Question.of` reads.

    Names are compared without case, and a space in them is "_". Fields that are null or NaN are
    missing. A name with a dot, as a store has it, is a field of an object. Lists of choices, of
    answers and of relevant documents that are written as text are lists again. These forms of
    choices become "choices" and "correct":

        choice1, choice2 ... (also option, ending, sol)     COPA, WinoGrande, PIQA, SWAG
        answerA, answerB ... (also option_a, opa, A)        Social IQa, MedMCQA, C-Eval
        answer0, answer1 ... or "answers", with a "label"   CosmosQA, ReClor; "choice" of DREAM
        correct_answer, and distractor1 ... or wrong ones   SciQ, GPQA
        best_answer, correct_answers, incorrect_answers     TruthfulQA
        mc1_targets, target_scores                          TruthfulQA, BIG-bench
        "choices" or "answers" with "correct": true         (also is_correct)

    Beside choices, a "correct_answer" names one as an "answer" does. The question begins with its
    "premise" or "body", and, if it has choices, with the passage that it is about (one of
    `PASSAGES`). The passage of another question is no part of it: its place is the store.
    """
    row = _nested(with_named_reference(row))
    given = {field_name(key): value for key, value in row.items() if not _is_missing(value)}
    fields = {key: _read(key, value) for key, value in given.items()}
    fields |= _of_objects(fields)
    if fields.get("instruction") and isinstance(fields.get("input"), str):
        fields["instruction"] = f"{fields['instruction']}\n\n{fields['input']}".strip()
    if any(isinstance(given.get(key), str) and key in fields for key in CHOICES):
        # All cells of CSV are texts: beside a list of choices, a number is an index.
        for key in (*CORRECT, *ANSWERS, "correct_answer"):
            if isinstance(cell := fields.get(key), str) and cell.strip().isdecimal():
                fields[key] = int(cell)
    fields = _with_choices(fields)
    for key in ("label", *FROM_0_OR_1):
        if key in fields and index_text(fields[key]) == "-1":  # Hugging Face's for an unknown one
            del fields[key]
    fields |= _with_aliases(fields)
    if str(fields.get("is_impossible")) == "True":  # the answers of KLUE are then plausible ones
        fields = {key: value for key, value in fields.items() if key not in ANSWERS}
    return fields | _after_passage(fields)


def whole(value: object) -> object:
    """Return an integer for a number that is one; any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def index_text(value: object) -> str:
    """Return an index as text, without the decimals that pandas writes to a column with gaps."""
    return str(whole(value)).strip().removesuffix(".0")


def is_blank(value: object) -> bool:
    """Return True for null, NaN, white space and an empty list."""
    return _is_missing(value) or value == [] or (isinstance(value, str) and not value.strip())


def _nested(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row in which "answers.text" is the field "text" of the object "answers"."""
    fields: dict[str, object] = {}
    for key, value in row.items():
        outer, dot, inner = key.partition(".")
        if dot and field_name(outer) in (*_LISTS, *ANSWERS):
            held = fields.setdefault(outer, {})
            if isinstance(held, dict):
                held[inner] = value
        else:
            fields[key] = value
    return fields


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _of_objects(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the question of ARC's makers or of Natural Questions, which is an object."""
    found: dict[str, object] = {}
    if isinstance(asked := fields.get("question"), Mapping):
        found["question"] = asked.get("stem", asked.get("text"))
        if "choices" in asked:
            found["choices"] = asked["choices"]
    if "annotations" in fields and not any(key in fields for key in ANSWERS):
        document = fields.get("document_text")
        found["answers"] = answers_of_annotations(fields["annotations"], document)
    return found


def _scored(fields: Mapping[str, object]) -> dict[str, object]:
    """Return choices of which each has a number, 1 for a correct one."""
    key = next((key for key in _SCORED_CHOICES if key in fields), "")
    texts, numbers = fields.get(key), fields.get(_SCORED_CHOICES.get(key, ""))
    if isinstance(texts, Mapping):
        numbers = texts.get("labels", [*texts.values()])
        texts = texts.get("choices", [*texts])
    if not isinstance(texts, list) or not isinstance(numbers, list) or not texts:
        return {}
    right = [index for index, number in enumerate(numbers) if number == 1]
    return {"choices": texts, **({"correct": right} if right else {})}


def _with_choices(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields with other forms of choices as "choices"; "correct_answer" names one."""
    found = {**fields, **marked_choices(fields, (*CHOICES, "answers"))}
    if not any(key in found for key in CHOICES):
        forms = (_scored, _in_columns, _right_and_wrong, _in_lists)
        found |= next(filter(None, (form(found) for form in forms)), {})
    has_choices = any(key in found for key in CHOICES)
    if has_choices and "correct_answer" in found and not any(key in found for key in ANSWERS):
        found["answer"] = found["correct_answer"]
    return {key: value for key, value in found.items() if value is not None}


def _in_columns(fields: Mapping[str, object]) -> dict[str, object]:
    """Return choices that have a field each, or several answers."""
    return choices_in_columns(fields, ("label", "correct_answer", *CORRECT, *ANSWERS))


def _in_lists(fields: Mapping[str, object]) -> dict[str, object]:
    """Return a list of choices under "choice", or "answers" of which an index names one."""
    if isinstance(fields.get("choice"), list):
        return {"choices": fields["choice"]}
    texts = fields.get("answers")
    key = next((key for key in ("label", *CORRECT) if key in fields), "")
    index = index_text(fields.get(key))
    if not isinstance(texts, list) or not index.isdecimal():
        return {}
    return {"choices": texts, "answers": None, key: int(index)}


def _right_and_wrong(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the choices and correct answers of a row that has right and wrong answers."""
    right = [*_texts(fields.get("best_answer", fields.get("correct_answer")))[:1]]
    wrong = [fields[key] for key in sorted(fields) if _WRONG.fullmatch(key)]
    wrong += _texts(fields.get("incorrect_answers"), ";")
    answers = list(dict.fromkeys([*right, *_texts(fields.get("correct_answers"), ";")]))
    found: dict[str, object] = {"answers": answers} if answers else {}
    if right and wrong:  # the right one is last: of equally likely choices the first counts
        found |= {"choices": [*wrong, *right], "correct": len(wrong)}
    return found


def _with_aliases(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the answer with its aliases, as in MuSiQue, or with the validated ones of DROP."""
    answer, others = fields.get("answer"), fields.get("answer_aliases")
    if is_of_drop(answer):
        return {"answer": answers_of_drop(answer, fields.get("validated_answers"))}
    return {"answer": [answer, *others]} if answer and isinstance(others, list) else {}


def _after_passage(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the question after the texts without which it cannot be understood."""
    asked = ((key, value) for key in QUESTIONS if isinstance(value := fields.get(key), str))
    key, question = next(((key, value) for key, value in asked if value), ("", ""))
    has_choices = any(name in fields for name in CHOICES)
    names = [name for name in (*_PREMISES, *(PASSAGES if has_choices else ())) if name != key]
    parts = [text for name in names if (text := text_of(fields.get(name)))]
    if not key or not parts:
        return {}
    return {key: "\n\n".join([*parts, _ASKED.get(question, question)])}


def text_of(passage: object) -> str:
    """Return a passage, or the turns of a dialogue; "" for what is neither."""
    turns = passage if isinstance(passage, list) else [passage]
    is_text = all(isinstance(turn, str) for turn in turns)
    return "\n".join(map(str, turns)).strip() if is_text else ""


def _texts(value: object, separator: str | None = None) -> Sequence[str]:
    """Return the texts of a list, or of a text in which a separator is between them."""
    if isinstance(value, list):
        return [str(one) for one in value]
    if value is None:
        return []
    parts = [str(value)] if separator is None else str(value).split(separator)
    return [part.strip() for part in parts if part.strip()]


def answers_in_text(text: str) -> object:
    """Return the texts that a text lists, or its object of answers; else the text itself.

    An answer may look like a list or an object, such as "[1, 2]" and other JSON.
    """
    found = _literal(text)
    holds_texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return found if holds_texts or _holds_answers(found) else text


def _holds_answers(value: object) -> bool:
    """Return True for an object of answers, as in SQuAD, TriviaQA and DROP."""
    if not isinstance(value, Mapping):
        return False
    names = {str(name).casefold() for name in value}
    has_names = {"value", "aliases"} <= names or bool({"spans", "answer_start"} & names)
    return has_names or isinstance(value.get("text"), list)


def _read(key: str, value: object) -> object:
    """Return the list or object that a text stands for; any other value as it is."""
    found = _literal(value) if key in _LISTS and isinstance(value, str) else None
    is_other = isinstance(found, Mapping) and key in _LISTS_OF_TEXTS and not _holds_answers(found)
    return value if found is None or is_other else found


def _literal(text: str) -> object:
    """Return the list or object that is written as text; None for any other text."""
    stripped = text.strip()
    is_written = (stripped[:1], stripped[-1:]) in {("[", "]"), ("{", "}")}
    return literal(stripped) if is_written else None
