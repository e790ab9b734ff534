"""Score an answer against its reference answers; name the metrics of answers and documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from langchain_sift.report.judge_scores import CORRECT, FAITHFUL
from langchain_sift.report.ranking import INTENT_METRICS, RANKING_METRICS
from langchain_sift.report.words import normalized


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the normalized answer equals a normalized reference, else 0."""
    return float(any(normalized(answer) == normalized(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words, for the best reference.

    In a script without spaces between words, the words are its characters.
    """
    scores = (_f1(normalized(answer), normalized(reference)) for reference in references)
    return max(scores, default=0.0)


def contains_answer(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer contains a reference, word by word, else 0."""
    words = _between_spaces(answer)
    return float(any(_between_spaces(reference) in words for reference in references))


def _between_spaces(text: str) -> str:
    """Return the normalized words of a text, each between spaces: those of a part are within."""
    return f" {normalized(text)} "


def _f1(answer: str, reference: str) -> float:
    answer_words, reference_words = answer.split(), reference.split()
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    common = sum((Counter(answer_words) & Counter(reference_words)).values())
    return 2.0 * common / (len(answer_words) + len(reference_words))


ANSWER_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = MappingProxyType(
    {"exact_match": exact_match, "f1": token_f1, "contains": contains_answer}
)
"""Metrics of answers with references; from 0 to 1, higher is better."""

ANSWER_HIT = "answer_hit"
"""1 if a retrieved document contains a reference, word by word, else 0."""

RETRIEVAL_METRICS = (*INTENT_METRICS, *RANKING_METRICS, ANSWER_HIT)
"""The metrics of retrieved documents."""

ACCURACY = "accuracy"
"""1 if the correct one of several choices is the likeliest, else 0."""

ACCURACY_BY_LENGTH = "accuracy_norm"
"""The same with log-likelihoods divided by the number of characters of a choice, as "acc_norm" of
lm-evaluation-harness: a long choice is less likely for its length alone."""

FROM_0_TO_1 = frozenset(
    {*ANSWER_METRICS, *RETRIEVAL_METRICS, ACCURACY, ACCURACY_BY_LENGTH, CORRECT, FAITHFUL}
)
