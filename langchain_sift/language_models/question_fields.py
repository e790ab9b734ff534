"""Give the fields of a question the same names, whichever dataset they are from."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping, Sequence

CHOICES = ("choices", "options", "endings")
CORRECT = ("correct", "answerKey", "answer_idx", "answer_index", "correct_option", "cop")
ANSWERS = (
    "answers",
    "answer",
    "target",
    "label",
    "possible_answers",
    "answers_spans",
    "completion",
    "output",
    "response",
)
QUESTIONS = (
    "question",
    "text",
    "ctx",
    "question_stem",
    "question_text",
    "query",
    "problem",
    "prompt",
    "instruction",
    "goal",
    "sentence",
    "input",
)
_KNOWN = {name.casefold(): name for name in (*CHOICES, *CORRECT, *ANSWERS, *QUESTIONS)}
_SCORED_CHOICES = ("mc1_targets", "target_scores")
_LISTS = (*CHOICES, *_SCORED_CHOICES, "answers", "possible_answers", "correct_answers", "relevant")
_NUMBERED = re.compile(r"(?:option|choice|ending|sol)_?(\d)")
_WRONG = re.compile(r"(?:distractor|incorrect_answer)_?\d")
_MEDICAL = ("opa", "opb", "opc", "opd")  # the choices of MedMCQA


def question_fields(row: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a question under the names that `Question.of` reads.

    Names are compared without case, and a space in them is "_". Fields that are null or NaN are
    missing. A name with a dot, as a store has it, is a field of an object. Lists and objects that
    an export to CSV wrote as text are lists and objects again. These forms of choices become
    "choices" and "correct":

        choice1, choice2 ... (also option, ending, sol)     WinoGrande, PIQA, SWAG
        opa, opb, opc, opd                                  MedMCQA
        correct_answer, and distractor1 ... or wrong ones   SciQ, GPQA
        best_answer, correct_answers, incorrect_answers     TruthfulQA
        mc1_targets, target_scores                          TruthfulQA, BIG-bench
    """
    row = _nested(row)
    given = {field_name(key): value for key, value in row.items() if not _is_missing(value)}
    fields = {key: _read(key, value) for key, value in given.items()}
    fields |= _of_objects(fields)
    if fields.get("instruction") and isinstance(fields.get("input"), str):
        fields["instruction"] = f"{fields['instruction']}\n\n{fields['input']}".strip()
    if any(isinstance(given.get(key), str) and key in fields for key in CHOICES):
        # All cells of CSV are texts: beside a list of choices, a number is an index.
        for key in (*CORRECT, *ANSWERS):
            if isinstance(cell := fields.get(key), str) and cell.strip().isdecimal():
                fields[key] = int(cell)
    if not any(key in fields for key in CHOICES):
        fields |= _scored(fields) or _in_columns(fields) or _right_and_wrong(fields)
    if fields.get("label") in (-1, "-1"):  # as Hugging Face writes an unknown label
        del fields["label"]
    return fields


def field_name(key: str) -> str:
    """Return the name of a field, without case and spaces."""
    folded = key.strip().casefold().replace(" ", "_")
    return _KNOWN.get(folded, folded)


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
    if isinstance(annotations := fields.get("annotations"), Mapping):
        short = annotations.get("short_answers")
        spans = (
            [one for one in short if isinstance(one, Mapping)] if isinstance(short, list) else []
        )
        found["answers"] = [text for span in spans for text in _texts(span.get("text"))]
    return found


def _scored(fields: Mapping[str, object]) -> dict[str, object]:
    """Return choices of which each has a number, 1 for the correct one."""
    value = next((fields[key] for key in _SCORED_CHOICES if key in fields), None)
    if not isinstance(value, Mapping):
        return {}
    texts, numbers = value.get("choices", [*value]), value.get("labels", [*value.values()])
    if not isinstance(texts, list) or not isinstance(numbers, list):
        return {}
    found = {"correct": numbers.index(1)} if numbers.count(1) == 1 else {}
    return {"choices": texts, **found}


def _in_columns(fields: Mapping[str, object]) -> dict[str, object]:
    """Return choices that have a field each."""
    if all(key in fields for key in _MEDICAL):
        return {"choices": [fields[key] for key in _MEDICAL]}
    numbered = sorted((m[1], key) for key in fields if (m := _NUMBERED.fullmatch(key)))
    if len(numbered) < 2:
        return {}
    if "label" in fields:  # it counts from 0, other answers as the names of the fields do
        return {"choices": [fields[key] for _, key in numbered]}
    return {"choices": {number: fields[key] for number, key in numbered}}


def _right_and_wrong(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the choices and correct answers of a row that has right and wrong answers."""
    right = [*_texts(fields.get("best_answer", fields.get("correct_answer")))[:1]]
    wrong = [fields[key] for key in sorted(fields) if _WRONG.fullmatch(key)]
    wrong += _texts(fields.get("incorrect_answers"), ";")
    answers = list(dict.fromkeys([*right, *_texts(fields.get("correct_answers"), ";")]))
    found: dict[str, object] = {"answers": answers} if answers else {}
    # The right one is last: of equally likely choices the first counts.
    return (
        {**found, "choices": [*wrong, *right], "correct": len(wrong)} if right and wrong else found
    )


def _texts(value: object, separator: str | None = None) -> Sequence[str]:
    """Return the texts of a list, or of a text in which a separator is between them."""
    if isinstance(value, list):
        return [str(one) for one in value]
    if value is None:
        return []
    parts = [str(value)] if separator is None else str(value).split(separator)
    return [part.strip() for part in parts if part.strip()]


def _read(key: str, value: object) -> object:
    """Return the list or object that a text stands for; any other value as it is.

    An answer may look like a list, such as "[1, 2]": only one of texts is read.
    """
    text = value.strip() if isinstance(value, str) else ""
    if key not in (*_LISTS, *ANSWERS) or (text[:1], text[-1:]) not in {("[", "]"), ("{", "}")}:
        return value
    found = literal(text)
    holds_texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    is_read = isinstance(found, Mapping) or holds_texts or (key in _LISTS and found is not None)
    return found if is_read else value


def literal(text: str) -> object:
    """Return the value of a text that is JSON, or as Python or NumPy writes it; None if none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(_Lists().visit(ast.parse(_with_commas(text), mode="eval")))
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            return None
    return value


def _with_commas(text: str) -> str:
    """Return a literal with the commas between texts, or numbers, that NumPy leaves out."""
    tokens: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text.replace("\n", " ")).readline):
        if tokens and {token.type, tokens[-1][0]} <= {tokenize.STRING, tokenize.NUMBER}:
            tokens.append((tokenize.OP, ","))
        tokens.append((token.type, token.string))
    return " ".join(string for _, string in tokens)


class _Lists(ast.NodeTransformer):
    """Turns NumPy's `array([...], dtype=object)` into its list."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Return the list of an array; any other call as it is, which is no literal."""
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and node.args
        replaced: ast.AST = self.visit(node.args[0]) if is_array else node
        return replaced
