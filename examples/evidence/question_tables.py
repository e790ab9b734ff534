"""Summarize the rows of `real_model_questions.py` and `learned_examples.py`; make the tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learned_examples import EXAMPLES, ONE_EPOCH

NAMES = {
    "base": "base model",
    "rag:nearest": "RAG, nearest",
    "rag:sift": "RAG, SIFT",
    "rag:sift:noise_variance=0.01": "RAG, SIFT with λ' = 0.01",
    "rag:repeated": "RAG, SIFT with repeats, each document once",
    "ttft:sift": "TTFT, SIFT",
    "ttft:sift:noise_variance=0.01": "TTFT, SIFT with λ' = 0.01",
    "both:sift": "both, SIFT",
    "both:sift:noise_variance=0.01": "both, SIFT with λ' = 0.01",
    "both:sift:replace": "both, SIFT with repeats",
    "both:nearest": "both, nearest",
    "ttft:random": "TTFT, random documents",
    "both:random": "both, random documents",
}
LEARNED = {
    "base": "base model",
    "rag:sift": "RAG, SIFT",
    "template": "RAG, SIFT, with the template",
    "instructed": "RAG, SIFT, with the instruction",
    "learned-24": "RAG, SIFT, after learning 24 examples",
    "learned-24-twice": "RAG, SIFT, after learning 24 examples twice",
    "learned": "RAG, SIFT, after learning 100 examples",
    "learned-300": "RAG, SIFT, after learning 300 examples",
    "learned-wrong": "RAG, SIFT, after learning 100 examples with wrong answers",
}
"""Ways to answer of `learned_examples.py`."""

SCORES = ("exact_match", "f1", "contains")
RESULTS = Path(__file__).parents[2] / "tests" / "benchmarks" / "results"
DEMO = {"text": "handbook.json", "distill": "handbook_distill.json"}
RESAMPLES = 10_000
Way = tuple[str, str]
"""A method and its objective, "" without training."""

ORDERED: Sequence[Way] = (("rag:nearest", ""), ("rag:sift", ""), ("both:sift", "text"))
"""The methods that were measured with both orders of the documents in the prompt."""

SAME_DOCUMENTS: Mapping[Way, Way] = {
    ("both:sift", "text"): ("rag:sift", ""),
    ("both:sift", "distill"): ("rag:sift", ""),
    ("both:sift", "answer"): ("rag:sift", "answer"),
    ("both:sift:noise_variance=0.01", "text"): ("rag:sift:noise_variance=0.01", ""),
    ("both:sift:noise_variance=0.01", "distill"): ("rag:sift:noise_variance=0.01", ""),
    ("both:nearest", "text"): ("rag:nearest", ""),
    ("both:sift:replace", "text"): ("rag:repeated", ""),
}
"""RAG whose prompt has the same documents as that of a method."""


def question_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of each method and objective, and the differences from RAG.

    A question counts once the base model, RAG and the method were measured on it.
    """
    by_way: dict[Way, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_way[row["method"], row["objective"]][row["prompt"]] = row
    rag = by_way["rag:sift", ""]
    return [
        _of_way((method, objective), by_way, rag)
        for method in NAMES
        for objective in ("", "text", "answer", "distill")
        if (method, objective) in by_way
    ]


Rows = Mapping[str, Mapping[str, Any]]
"""Rows of a method by their prompts."""


def _of_way(way: Way, by_way: Mapping[Way, Rows], rag: Rows) -> dict[str, Any]:
    found = by_way[way]
    shared = sorted(found.keys() & rag.keys())
    peer = by_way.get(SAME_DOCUMENTS.get(way, ("", "")))
    seconds = [
        found[prompt]["seconds_training"] + found[prompt]["seconds_answering"] for prompt in shared
    ]

    def mean(name: str) -> float:
        return float(np.mean([found[prompt][name] for prompt in shared]))

    return {
        "method": way[0],
        "objective": way[1],
        "questions": len(shared),
        "contains": round(100 * mean("contains"), 1),
        "f1": round(mean("f1"), 3),
        "bits": round(mean("bits"), 1),
        "seconds": round(float(np.median(seconds)), 1),
        "difference": _difference(found, rag),
        "same_documents": None if peer is None else _difference(found, peer),
    }


def _rows_of(way: Way, rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of a method and objective, by prompt."""
    return {row["prompt"]: row for row in rows if (row["method"], row["objective"]) == way}


def _difference(found: Rows, other: Rows, score: str = "contains") -> list[float]:
    """Return the difference of a score in points, and its 95 % interval.

    The questions about a paragraph are one observation of a bootstrap.
    """
    of_source: dict[str, list[float]] = defaultdict(list)
    for prompt in sorted(found.keys() & other.keys()):
        points = 100 * (found[prompt][score] - other[prompt][score])
        of_source[found[prompt]["source"]].append(points)
    sums = np.array([sum(group) for group in of_source.values()])
    counts = np.array([len(group) for group in of_source.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = sums.sum() / counts.sum()
    return [round(float(number), 1) for number in (mean, low, high)]


def order_of_questions(
    last: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare the rows with the most informative document last in the prompt with those first."""
    found = []
    for way in ORDERED:
        one, other = _rows_of(way, last), _rows_of(way, first)
        shared = sorted(one.keys() & other.keys())
        found.append(
            {
                "method": way[0],
                "questions": len(shared),
                "scores": {
                    score: [
                        round(float(np.mean([rows[prompt][score] for prompt in shared])), 4)
                        for rows in (other, one)
                    ]
                    for score in ("contains", "f1", "bits")
                },
                "contains": _difference(one, other),
                "bits": [round(points / 100, 2) for points in _difference(one, other, "bits")],
            }
        )
    return found


def order_of_questions_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each method."""
    lines = [
        "| | questions | contains, %: first | last | last less first | F1: first | last "
        "| bits of the reference: first | last | last less first |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        (first, last), f1, bits = (each["scores"][name] for name in ("contains", "f1", "bits"))
        mean, low, high = each["bits"]
        lines.append(
            f"| {NAMES[each['method']]} | {each['questions']} | {100 * first:.1f} "
            f"| {100 * last:.1f} | {_cell(each['contains'])} | {f1[0]:.3f} | {f1[1]:.3f} "
            f"| {bits[0]:.1f} | {bits[1]:.1f} | {mean:+.2f} ({low:+.2f} to {high:+.2f}) |"
        )
    return lines


def questions_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each method and objective."""
    lines = [
        "| | objective | questions | contains, % | less RAG, SIFT | less RAG, same documents | F1 "
        "| bits of the reference | median seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        is_rag = (each["method"], each["objective"]) == ("rag:sift", "")
        apart = "" if is_rag else _cell(each["difference"])
        same = "" if each["same_documents"] is None else _cell(each["same_documents"])
        lines.append(
            f"| {NAMES[each['method']]} | {each['objective']} | {each['questions']} "
            f"| {each['contains']:.1f} | {apart} | {same} | {each['f1']:.3f} | {each['bits']:.1f} "
            f"| {each['seconds']:.1f} |"
        )
    return lines


def further_results(
    first: Sequence[Mapping[str, Any]], further: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare both together with RAG, on the first questions, on further ones and on all."""
    found = []
    for questions, rows in (("first", first), ("further", further), ("all", [*first, *further])):
        rag, both = _rows_of(("rag:sift", ""), rows), _rows_of(("both:sift", "text"), rows)
        shared = rag.keys() & both.keys()
        found.append(
            {
                "which": questions,
                "questions": len(shared),
                "scores": {
                    score: [
                        _percent(rag, shared, score),
                        _percent(both, shared, score),
                        *_difference(both, rag, score),
                    ]
                    for score in ("contains", "f1")
                },
            }
        )
    return found


def further_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for the first questions, for further ones and for all."""
    lines = [
        "| questions | number | contains, %: RAG, SIFT | both, SIFT | both less RAG "
        "| F1, %: RAG, SIFT | both, SIFT | both less RAG |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        cells = [
            f"{rag:.1f} | {both:.1f} | {_cell(difference)}"
            for rag, both, *difference in each["scores"].values()
        ]
        lines.append(f"| {each['which']} | {each['questions']} | {' | '.join(cells)} |")
    return lines


def demo_results() -> list[dict[str, Any]]:
    """Return the scores of the demo's questions with each objective, from the committed runs."""
    found = []
    for objective, name in DEMO.items():
        run = json.loads((RESULTS / name).read_text(encoding="utf-8"))["protocols"]["qa"]
        for method, scores in run["methods"].items():
            trains = method.startswith(("ttft", "both"))
            if trains or objective == "text":
                found.append(
                    {
                        "method": method,
                        "objective": objective if trains else "",
                        "questions": run["prompts"],
                        "contains": round(100 * scores["scores"]["contains"], 1),
                        "error": round(100 * scores["score_errors"]["contains"], 1),
                        "f1": round(scores["scores"]["f1"], 3),
                        "seconds": round(scores["seconds"], 1),
                    }
                )
    return found


def demo_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each method and objective of the demo."""
    lines = ["| | objective | contains, % | F1 | seconds |", "|---|---|--:|--:|--:|"]
    return lines + [
        f"| {NAMES[each['method']]} | {each['objective']} "
        f"| {each['contains']:.1f} ± {each['error']:.1f} | {each['f1']:.3f} "
        f"| {each['seconds']:.1f} |"
        for each in results
    ]


def learned_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean scores of each way to answer, and the differences from RAG."""
    by_method = _by_method(rows)
    return [
        {
            "method": method,
            "questions": len(found := by_method[method]),
            "seconds_learning": max(row["seconds_learning"] for row in found.values()),
            "seconds": round(float(np.median([r["seconds_answering"] for r in found.values()])), 1),
            "scores": {
                score: [
                    _percent(found, found, score),
                    *_difference(found, by_method["rag:sift"], score),
                ]
                for score in SCORES
            },
        }
        for method in LEARNED
        if method in by_method
    ]


def learned_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each way to answer."""
    lines = [
        "| | questions | exact match, % | less RAG | F1, % | less RAG | contains, % | less RAG "
        "| seconds to learn | median seconds of an answer |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        cells = [
            f"{mean:.1f} | {'' if each['method'] == 'rag:sift' else _cell(difference)}"
            for mean, *difference in each["scores"].values()
        ]
        name, questions = LEARNED[each["method"]], each["questions"]
        learning = str(each["seconds_learning"] or "")
        seconds = f"{learning} | {each['seconds']:.1f}"
        lines.append(f"| {name} | {questions} | {' | '.join(cells)} | {seconds} |")
    return lines


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """Return the rows of each method, by prompt."""
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        found[row["method"]][row["prompt"]] = row
    return {**found}


def _percent(found: Rows, prompts: Collection[str], score: str) -> float:
    """Return the mean score of some prompts, in percent."""
    return round(100 * float(np.mean([found[prompt][score] for prompt in sorted(prompts)])), 1)


def epochs_results(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean scores after each number of epochs, and the differences from one epoch.

    Args:
        files: Rows of learned examples, by what they were measured for.
    """
    found = []
    for purpose, rows in files.items():
        by_method = _by_method(rows)
        for way, once in ONE_EPOCH.items():
            if way in by_method:
                pair = by_method[once], by_method[way]
                shared = pair[0].keys() & pair[1].keys()
                scores = {
                    score: [
                        *(_percent(of, shared, score) for of in pair),
                        *_difference(pair[1], pair[0], score),
                    ]
                    for score in SCORES
                }
                found.append(
                    {
                        "purpose": purpose,
                        "questions": len(shared),
                        "examples": EXAMPLES[way][0],
                        "epochs": EXAMPLES[way][1],
                        "scores": scores,
                    }
                )
    return found


def epochs_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each number of epochs above one."""
    scores = ("exact match", "F1", "contains")
    lines = [
        "| | questions | examples | epochs "
        + "".join(f"| {score}, %: one epoch | all epochs | difference " for score in scores)
        + "|",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        cells = [
            f"{one:.1f} | {more:.1f} | {_cell(difference)}"
            for one, more, *difference in each["scores"].values()
        ]
        lines.append(
            f"| {each['purpose']} | {each['questions']} | {each['examples']} | {each['epochs']} "
            f"| {' | '.join(cells)} |"
        )
    return lines


def _cell(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
