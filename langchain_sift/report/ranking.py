"""Score a ranking of documents against those that are known to be relevant.

A ranking is the ids of the retrieved documents, the first first. A document that occurs again
takes a place and finds nothing: it counts at its first place alone. The values are those of
trec_eval and ndeval, the programs of TREC, which know no repeats; ndeval ends at rank 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

ALPHA = 0.5
"""α of α-nDCG: the probability that a document which seems to serve an intent serves it."""


@dataclass(frozen=True, slots=True)
class Judgments:
    """The documents that are relevant to a query."""

    grades: Mapping[str, int]
    """Positive grade of each relevant document, by its id."""

    intents: tuple[frozenset[str], ...] = ()
    """The documents that serve each intent of the query. Empty if intents are not known."""


def ndcg(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Compute the normalized discounted cumulative gain of the first k documents.

    Järvelin & Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques. The gain of a
    document is its grade and the discount of rank r is log2(r + 1), as in trec_eval's `ndcg_cut`.

    Args:
        ranking: The retrieved ids.
        judgments: The relevant documents, at least one.
        k: Number of documents that count.
    """
    grades = judgments.grades
    gains = [grades.get(document, 0) for document in _first_places(ranking[:k])]
    ideal = sorted(grades.values(), reverse=True)
    return _discounted(gains) / _discounted(ideal[:k])


def recall(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Return the fraction of the relevant documents that are among the first k."""
    return len(judgments.grades.keys() & set(ranking[:k])) / len(judgments.grades)


def reciprocal_rank(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Return 1 over the rank of the first relevant document; 0 if none is among the first k.

    Its mean over queries is MRR: Voorhees (1999), The TREC-8 question answering track report.
    """
    ranks = (n for n, document in enumerate(ranking[:k], start=1) if document in judgments.grades)
    return 1.0 / next(ranks, math.inf)


def hit(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Return 1 if a relevant document is among the first k, else 0."""
    return float(not judgments.grades.keys().isdisjoint(ranking[:k]))


def alpha_ndcg(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Compute α-nDCG of the first k documents, with α = 0.5.

    Clarke et al. (2008), Novelty and diversity in information retrieval evaluation. A document
    gains 1 for each intent that it serves, halved for each earlier document that serves it too.
    The ideal ranking is the greedy one, as in the paper and in TREC's ndeval.

    Args:
        ranking: The retrieved ids.
        judgments: The relevant documents of each intent, at least one.
        k: Number of documents that count.
    """
    gains = _novel_gains(_first_places(ranking[:k]), judgments.intents)
    return _discounted(gains) / _discounted(_greedy_gains(judgments.intents, k))


def intent_recall(ranking: Sequence[str], judgments: Judgments, k: int) -> float:
    """Return the fraction of the intents that the first k documents serve.

    Zhai et al. (2003), Beyond independent relevance: S-recall.
    """
    found = set(ranking[:k])
    served = sum(not intent.isdisjoint(found) for intent in judgments.intents)
    return served / len(judgments.intents)


RANKING_METRICS: Mapping[str, Callable[[Sequence[str], Judgments, int], float]] = MappingProxyType(
    {"ndcg": ndcg, "recall": recall, "mrr": reciprocal_rank, "hit": hit}
)
"""Metrics of a ranking; from 0 to 1, higher is better."""

INTENT_METRICS: Mapping[str, Callable[[Sequence[str], Judgments, int], float]] = MappingProxyType(
    {"alpha_ndcg": alpha_ndcg, "intent_recall": intent_recall}
)
"""Metrics of a ranking for a query whose intents are known."""


def ranking_scores(ranking: Sequence[str], judgments: Judgments, k: int) -> dict[str, float]:
    """Compute all metrics of a ranking, those of the intents first if the intents are known.

    Args:
        ranking: The retrieved ids.
        judgments: The relevant documents, at least one.
        k: Number of documents that count.
    """
    metrics = {**(INTENT_METRICS if judgments.intents else {}), **RANKING_METRICS}
    return {name: metric(ranking, judgments, k) for name, metric in metrics.items()}


def _first_places(ranking: Sequence[str]) -> list[str]:
    """Replace each document that occurred before by "", which is no id."""
    seen: set[str] = set()
    places = []
    for document in ranking:
        places.append("" if document in seen else document)
        seen.add(document)
    return places


def _discounted(gains: Iterable[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _novel_gains(ranking: Iterable[str], intents: Sequence[frozenset[str]]) -> list[float]:
    """Return the gain of each document: less for intents that earlier documents serve."""
    served = [0] * len(intents)
    return [_take(document, intents, served) for document in ranking]


def _greedy_gains(intents: Sequence[frozenset[str]], k: int) -> list[float]:
    """Return the gains of the ranking that takes the document of the largest gain each time."""
    remaining = sorted(frozenset[str]().union(*intents), reverse=True)  # of equal ones, as ndeval
    served = [0] * len(intents)
    gains: list[float] = []
    while remaining and len(gains) < k:
        best = max(remaining, key=lambda document: _gain(document, intents, served))
        remaining.remove(best)
        gains.append(_take(best, intents, served))
    return gains


def _take(document: str, intents: Sequence[frozenset[str]], served: list[int]) -> float:
    """Return the gain of a document, and count it for the intents that it serves."""
    gain = _gain(document, intents, served)
    for number, intent in enumerate(intents):
        served[number] += document in intent
    return gain


def _gain(document: str, intents: Sequence[frozenset[str]], served: Sequence[int]) -> float:
    return sum(
        (1 - ALPHA) ** count
        for intent, count in zip(intents, served, strict=True)
        if document in intent
    )
