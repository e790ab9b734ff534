"""HullFT's selection, written from its paper (arXiv 2605.30337) to be measured against.

Frank-Wolfe finds weights of a convex combination of the candidates that comes close to the query;
the weights are then turned into how often each candidate is learned from. Two versions of the
second part: `counts_plain` evaluates every loss from the vectors, as the paper describes it and
its authors' code does; `counts_fast` is the same with the losses taken from a Gram matrix, so
that the comparison is with the method and not with one implementation of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def select(
    query: Array,
    candidates: Array,
    *,
    k: int,
    count: Callable[[Array, Array, Array, int], Counts],
) -> list[int]:
    """Return k rows, repeated as often as their weight says."""
    support, weights = frank_wolfe(query, candidates, k=k)
    counts = count(candidates[support], query, weights, k)
    return [row for row, times in zip(support, counts, strict=True) for _ in range(times)]


def frank_wolfe(
    query: Array, candidates: Array, *, k: int, iterations: int = 100, tolerance: float = 1e-4
) -> tuple[list[int], Array]:
    """Return at most k rows and the weights with which they come close to the query."""
    first = int(np.argmax(candidates @ query))
    weights = np.zeros(len(candidates))
    weights[first] = 1.0
    point = candidates[first].copy()
    support = {first}
    for _ in range(iterations):
        residual = query - point
        if np.linalg.norm(residual) < tolerance or len(support) >= k:
            break
        vertex = int(np.argmax(candidates @ residual))
        direction = candidates[vertex] - point
        length = direction @ direction
        if length < 1e-12:
            break
        step = float(np.clip(residual @ direction / length, 0.0, 1.0))
        weights *= 1.0 - step
        weights[vertex] += step
        point += step * direction
        support.add(vertex)
    rows = sorted(support, key=lambda row: -weights[row])
    return rows, weights[rows]


def counts_plain(points: Array, query: Array, weights: Array, k: int) -> Counts:
    """Round the weights to k in all so that the counted mean comes closest to the query."""

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


def counts_fast(points: Array, query: Array, weights: Array, k: int) -> Counts:
    """Do the same with |q - c P / k|² = |q|² - 2 c·(P q) / k + c·(P Pᵀ) c / k²."""
    gram, with_query = points @ points.T, points @ query
    diagonal = gram.diagonal()
    counts = np.floor(k * weights / weights.sum()).astype(np.int64)

    def gradient() -> Array:
        change: Array = 2.0 * (gram @ counts) / k**2 - 2.0 * with_query / k
        return change

    for _ in range(k - int(counts.sum())):
        counts[np.argmin(gradient() + diagonal / k**2)] += 1
    for _ in range(2):
        moved = False
        for source in np.flatnonzero(counts):
            if counts[source] == 0:
                continue
            slope = gradient()
            change = slope - slope[source]
            change = change + (diagonal + diagonal[source] - 2.0 * gram[source]) / k**2
            target = int(np.argmin(change))
            if change[target] < -1e-14:
                counts[source] -= 1
                counts[target] += 1
                moved = True
        if not moved:
            break
    return counts
