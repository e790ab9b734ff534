"""Choose settings of retrieval by their scores, and measure the choice on held-out queries.

Axes: queries, settings, counts of documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from langchain_sift.calibration.standard_errors import first_sufficient
from langchain_sift.report.intervals import Interval, ratio_interval
from langchain_sift.selection.arguments import Array

FOLDS = 5

# Part of the score for the first kind of query that may be given up for the second. Made queries
# are a harsh judge: on CISI, MultiHop-RAG, XQuAD and 13 kinds of text, the settings chosen so lost
# at most 2.8 % of the best score by labels (examples/evidence/retrieval_calibration.json).
_TOLERANCE = 0.08


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of one kind of query with all settings."""

    kind: str
    """The kind of query, for reports."""

    sift: Array
    """Shape (queries, settings, counts), counts ascending."""

    nearest: Array
    """Scores of nearest neighbours, shape (queries, counts)."""

    def take(self, rows: npt.NDArray[np.bool_]) -> Scores:
        """Return the scores of some of the queries."""
        return Scores(self.kind, self.sift[rows], self.nearest[rows])


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """The scores of queries with settings that were chosen on other queries."""

    kind: str
    chosen: Interval
    """Mean score with the settings chosen on the other folds."""

    nearest: Interval
    """Mean score of nearest neighbours, with as many documents."""

    gain: Interval
    """Mean of the differences, query by query."""


def documents_counts(k: int) -> tuple[int, ...]:
    """Return the numbers of documents to measure: the powers of two below k, and k."""
    return (*(1 << power for power in range((k - 1).bit_length())), k)


def choose(kinds: Sequence[Scores]) -> tuple[int, int]:
    """Choose the settings of the highest mean score, and the smallest sufficient k.

    With two kinds of query, the score of the second decides, among the settings whose score of
    the first is at most 8 % below the highest. See `first_sufficient` for k.

    Args:
        kinds: The scores of one kind of query, or of two with as many queries.

    Returns:
        The index of the settings, the first of equal ones, and that of the count.
    """
    first, last = (kinds[index].sift[:, :, -1].mean(axis=0) for index in (0, -1))
    if len(kinds) > 1:
        last = np.where(first >= (1.0 - _TOLERANCE) * first.max(), last, -math.inf)
    best = int(np.flatnonzero(last >= last.max() - 1e-12)[0])
    return best, first_sufficient(-kinds[-1].sift[:, best, :])


def cross_validate(
    kinds: Sequence[Scores], sources: Sequence[str], *, seed: int = 0
) -> tuple[HeldOutScores, ...]:
    """Measure the choice of settings on queries that had no part in it.

    The queries are divided into five folds, those of one source into the same. The settings for
    a fold are chosen on the other folds, so that the choice does not flatter itself (Varma &
    Simon, 2006). Intervals: bootstrap over sources, paired by query.

    Args:
        kinds: As for `choose`.
        sources: The source of each query, at least two different ones.
        seed: Seed of the folds and of the resampling.
    """
    folds = fold_numbers(sources, seed)
    chosen, nearest = np.zeros((2, len(kinds), len(sources)))
    for fold in np.unique(folds):
        held_out = folds == fold
        settings, count = choose([scores.take(~held_out) for scores in kinds])
        for index, scores in enumerate(kinds):
            chosen[index, held_out] = scores.sift[held_out, settings, count]
            nearest[index, held_out] = scores.nearest[held_out, count]

    def interval(values: Array) -> Interval:
        """Return the mean of a score with its interval."""
        return ratio_interval(values.tolist(), [1.0] * len(values), sources, seed=seed)

    return tuple(
        HeldOutScores(scores.kind, interval(own), interval(other), interval(own - other))
        for scores, own, other in zip(kinds, chosen, nearest, strict=True)
    )


def fold_numbers(sources: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Assign each source to a fold; the folds differ by at most one source in size.

    Args:
        sources: The source of each query.
        seed: Seed of the assignment, which does not depend on the order of the queries.
    """

    def order(source: str) -> bytes:
        """Return the place of a source in a random order."""
        data = f"{seed}\0{source}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=8).digest()

    ranked = sorted(set(sources), key=lambda source: (order(source), source))
    fold_of = {source: rank % FOLDS for rank, source in enumerate(ranked)}
    return np.array([fold_of[source] for source in sources], dtype=np.int64)
