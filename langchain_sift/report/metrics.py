"""Score an answer against its reference answers; name the metrics of answers and documents."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from langchain_sift.report.ranking import INTENT_METRICS, RANKING_METRICS

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Remove case, punctuation, articles and extra white space from an answer.

    As the evaluation of SQuAD does: Rajpurkar et al. (2016), arXiv 1606.05250, section 6.1.
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the normalized answer equals a normalized reference, else 0."""
    return float(any(normalized(answer) == normalized(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words, for the best reference."""
    scores = (_f1(normalized(answer), normalized(reference)) for reference in references)
    return max(scores, default=0.0)


def contains_answer(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer contains a reference, word by word, else 0."""
    words = f" {normalized(answer)} "
    return float(any(f" {normalized(reference)} " in words for reference in references))


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

FROM_0_TO_1 = frozenset({*ANSWER_METRICS, *RETRIEVAL_METRICS, ACCURACY})
