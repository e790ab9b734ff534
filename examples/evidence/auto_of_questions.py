"""Tell how `mode="auto"` does on questions, from the rows of `real_model_questions.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from langchain_sift.auto_mode import ModeFigures, PromptFigures, choose_mode, table_of
from langchain_sift.config import MODES

_DRAWS = 40  # divisions of the questions into two halves
_K = 5
_OBJECTIVES = {"", "text"}


def auto_of_questions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores and the seconds of each mode and of "auto", means over random divisions.

    Each question gets the mode that the table of the other half of the questions proposes. The
    seconds are those of training and answering.
    """
    by_prompt: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    methods = {mode if mode == "base" else f"{mode}:sift": mode for mode in MODES}
    for row in rows:
        if row["method"] in methods and row["objective"] in _OBJECTIVES:
            by_prompt[row["prompt"]][methods[row["method"]]] = row
    questions = [of for _, of in sorted(by_prompt.items()) if of.keys() == set(MODES)]
    return [
        {
            "score": score,
            "questions": len(questions),
            "modes": {mode: _means(questions, [mode] * len(questions), score) for mode in MODES},
            "auto": np.mean(
                [_of_auto(questions, score, seed) for seed in range(_DRAWS)], 0
            ).tolist(),
        }
        for score in ("f1", "contains")
    ]


def auto_of_questions_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each score."""
    names = {"base": "base model", "rag": "RAG", "ttft": "TTFT", "both": "both"}
    heads = [f"{name}, % (seconds)" for name in (*names.values(), "auto")]
    lines = [
        f"| score | questions | {' | '.join(heads)} | auto: points behind | % of both's seconds |",
        "|---|--:|" + "--:|" * (len(heads) + 2),
    ]
    for each in results:
        figures = [*(each["modes"][mode] for mode in names), each["auto"]]
        cells = [f"{100 * score:.1f} ({seconds:.1f})" for score, seconds in figures]
        score, seconds = each["auto"]
        behind = max(of[0] for of in each["modes"].values()) - score
        share = seconds / each["modes"]["both"][1]
        lines.append(
            f"| {each['score']} | {each['questions']} | {' | '.join(cells)} "
            f"| {100 * behind:.1f} | {100 * share:.0f} |"
        )
    return lines


def _of_auto(
    questions: Sequence[Mapping[str, Mapping[str, Any]]], score: str, seed: int
) -> tuple[float, float]:
    """Return the mean score and seconds with the tables of two random halves."""
    order = np.random.default_rng(seed).permutation(len(questions))
    figures = [_figures(of, score) for of in questions]
    modes = [""] * len(questions)
    for half in (0, 1):
        table = table_of([figures[number] for number in order[half::2]])
        for number in order[1 - half :: 2]:
            modes[number] = choose_mode(figures[number].uncertainty, _K, _K, table).mode
    return _means(questions, modes, score)


def _figures(of: Mapping[str, Mapping[str, Any]], score: str) -> PromptFigures:
    gains = {mode: row[score] - of["base"][score] for mode, row in of.items()}
    return PromptFigures(
        of["both"]["uncertainty"],
        {mode: ModeFigures(gains[mode], _seconds(row)) for mode, row in of.items()},
    )


def _means(
    questions: Sequence[Mapping[str, Mapping[str, Any]]], modes: Sequence[str], score: str
) -> tuple[float, float]:
    chosen = [of[mode] for of, mode in zip(questions, modes, strict=True)]
    return (
        float(np.mean([row[score] for row in chosen])),
        float(np.mean([_seconds(row) for row in chosen])),
    )


def _seconds(row: Mapping[str, Any]) -> float:
    return float(row["seconds_training"] + row["seconds_answering"])
