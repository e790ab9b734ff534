"""How good an answer is, given what it should have been."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return an answer without case, punctuation, articles and extra white space.

    As SQuAD's evaluation does: Rajpurkar et al. (2016), arXiv 1606.05250, section 6.1.
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer is one of the references, normalized, else 0."""
    return float(any(normalized(answer) == normalized(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words, for the best reference."""
    return max((_f1(normalized(answer), normalized(one)) for one in references), default=0.0)


def contains_answer(answer: str, references: Sequence[str]) -> float:
    """Return 1 if one of the references occurs in the answer, word by word, else 0."""
    words = f" {normalized(answer)} "
    return float(any(f" {normalized(reference)} " in words for reference in references))


def _f1(answer: str, reference: str) -> float:
    said, expected = answer.split(), reference.split()
    if not said or not expected:
        return float(said == expected)
    common = sum((Counter(said) & Counter(expected)).values())
    return 2.0 * common / (len(said) + len(expected))


ANSWER_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = MappingProxyType(
    {"exact_match": exact_match, "f1": token_f1, "contains": contains_answer}
)
"""What is measured of an answer that has references; from 0 to 1, more is better."""

FROM_0_TO_1 = frozenset({*ANSWER_METRICS, "accuracy"})
