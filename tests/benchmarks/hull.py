"""Round weights as HullFT's paper describes it (arXiv 2605.30337), every loss from the vectors.

The package computes the losses from a Gram matrix. Both are measured, so that the comparison does
not depend on one implementation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from langchain_sift.selection.arguments import Array
from langchain_sift.selection.hull import frank_wolfe

Counts = npt.NDArray[np.int64]


def as_published(query: Array, candidates: Array, *, k: int) -> list[int]:
    """Return k rows, repeated in proportion to their weights."""
    support, weights = frank_wolfe(query, candidates, k=k)
    counts = counts_plain(candidates[support], query, weights, k)
    return [row for row, times in zip(support, counts, strict=True) for _ in range(times)]


def counts_plain(points: Array, query: Array, weights: Array, k: int) -> Counts:
    """Round the weights to counts, k in all, whose mean is closest to the query."""

    def loss(counts: Counts) -> float:
        difference = query - (counts / k) @ points
        return float(difference @ difference)

    counts = np.floor(k * weights / weights.sum()).astype(np.int64)
    ones = np.eye(len(counts), dtype=np.int64)
    for _ in range(k - int(counts.sum())):
        counts = min((counts + one for one in ones), key=loss)
    for _ in range(2):  # passes of moving one count to another row
        best, moved = loss(counts), False
        for source in np.flatnonzero(counts):
            for target in range(len(counts)):
                tried = counts - ones[source] + ones[target]
                if tried.min() >= 0 and (value := loss(tried)) + 1e-14 < best:
                    counts, best, moved = tried, value, True
        if not moved:
            break
    return counts
