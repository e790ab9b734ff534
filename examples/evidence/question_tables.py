"""Summarize the rows of `real_model_questions.py`, and make the tables of the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAMES = {
    "base": "base model",
    "rag:nearest": "RAG, nearest",
    "rag:sift": "RAG, SIFT",
    "rag:sift:noise_variance=0.01": "RAG, SIFT with λ' = 0.01",
    "rag:repeated": "RAG, SIFT with λ' = 6.5 and repeats",
    "ttft:sift": "TTFT, SIFT",
    "both:sift": "both, SIFT",
    "both:nearest": "both, nearest",
    "both:sift:noise_variance=6.5": "both, SIFT with λ' = 6.5",
    "ttft:random": "TTFT, random documents",
    "both:random": "both, random documents",
}
RESAMPLES = 10_000
Way = tuple[str, str]
"""A method and its objective, "" without training."""


def question_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of each method and objective, and the difference from RAG with SIFT.

    A question counts once the base model, RAG and the method were measured on it.
    """
    by_way: dict[Way, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_way[row["method"], row["objective"]][row["prompt"]] = row
    rag = by_way["rag:sift", ""]
    return [
        _of_way((method, objective), by_way[method, objective], rag)
        for method in NAMES
        for objective in ("", "text", "answer", "distill")
        if (method, objective) in by_way
    ]


def _of_way(
    way: Way, found: Mapping[str, Mapping[str, Any]], rag: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    shared = sorted(found.keys() & rag.keys())
    points = [100 * (found[prompt]["contains"] - rag[prompt]["contains"]) for prompt in shared]
    sources = [found[prompt]["source"] for prompt in shared]
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
        "difference": _interval(points, sources),
    }


def _interval(values: Sequence[float], sources: Sequence[str]) -> list[float]:
    """Return the mean and its 95 % interval, by a bootstrap over sources."""
    of_source: dict[str, list[float]] = defaultdict(list)
    for value, source in zip(values, sources, strict=True):
        of_source[source].append(value)
    sums = np.array([sum(group) for group in of_source.values()])
    counts = np.array([len(group) for group in of_source.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return [round(float(number), 1) for number in (np.mean(values), low, high)]


def questions_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each method and objective."""
    lines = [
        "| | objective | questions | contains, % | less RAG, SIFT | F1 | bits of the reference "
        "| median seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        mean, low, high = each["difference"]
        apart = "" if each["method"] == "rag:sift" else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {NAMES[each['method']]} | {each['objective']} | {each['questions']} "
            f"| {each['contains']:.1f} | {apart} | {each['f1']:.3f} | {each['bits']:.1f} "
            f"| {each['seconds']:.1f} |"
        )
    return lines
