"""HullFT: the documents whose convex combination comes closest to the query."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from langchain_sift.selection.arguments import (
    Array,
    as_matrices,
    as_numpy,
    check_arguments,
    unit_rows,
)
from langchain_sift.selection.greedy import Selection, stops_after
from langchain_sift.selection.posterior import Posterior

Counts = npt.NDArray[np.int64]

_ITERATIONS = 100
_CLOSE = 1e-4
_ROUNDING = 1e-14
_PASSES = 2  # of moving one count to another row


def hull(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose rows whose mean, repeats counted, comes close to the query.

    Khamis & Maalouf, arXiv 2605.30337: Frank-Wolfe finds a convex combination of at most k
    candidates, its weights are rounded to k counts, and the rows come by falling weight. With
    `replace` each as often as it counts, as there; without, each once, so fewer than k perhaps.
    What is chosen for a smaller k is no prefix of this. For several queries their mean counts.

    `noise_variance` and `stopping_alpha` only concern what is reported, and where it ends;
    otherwise as `select`.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    xp, queries = matrices.xp, matrices.queries
    rows = as_numpy(unit_rows(xp, matrices.candidates)).astype(np.float64)
    indices: list[int] = []
    if len(rows):
        query = as_numpy(xp.mean(unit_rows(xp, queries), axis=0)).astype(np.float64)
        support, weights = frank_wolfe(query, rows, k=k)
        counts = round_weights(rows[support], query, weights, k) if replace else [1] * len(support)
        indices = [row for row, times in zip(support, counts, strict=True) for _ in range(times)]
    posterior = Posterior(matrices, noise_variance=noise_variance, capacity=len(indices))
    variances = [posterior.query_variance]
    for steps, index in enumerate(indices, start=1):
        posterior.condition(index)
        variances.append(posterior.query_variance)
        if stops_after(steps, variances[-1], queries=queries.shape[0], alpha=stopping_alpha):
            indices = indices[:steps]
            break
    return Selection.of(indices, variances)


def frank_wolfe(query: Array, candidates: Array, *, k: int) -> tuple[list[int], Array]:
    """Return at most k rows, and the convex weights with which they come close to the query.

    arXiv 2605.30337, algorithm 1: minimises |q - Σ w_i x_i|² with exact line search. Rows come by
    falling weight, and none has weight zero.
    """
    first = int(np.argmax(candidates @ query))
    weights = np.zeros(len(candidates))
    weights[first] = 1.0
    point = candidates[first].copy()
    support = {first}
    for _ in range(_ITERATIONS):
        residual = query - point
        if np.linalg.norm(residual) < _CLOSE or len(support) >= k:
            break
        vertex = int(np.argmax(candidates @ residual))
        direction = candidates[vertex] - point
        length = direction @ direction
        step = float(np.clip(residual @ direction / length, 0.0, 1.0)) if length > 0 else 0.0
        if step == 0.0:  # no vertex is closer: the point is the nearest of the hull
            break
        weights *= 1.0 - step
        weights[vertex] += step
        point += step * direction
        support.add(vertex)
    found = sorted((row for row in support if weights[row] > 0), key=lambda row: -weights[row])
    return found, weights[found]


def round_weights(points: Array, query: Array, weights: Array, k: int) -> Counts:
    """Return counts, k in all, whose mean of the points comes closest to the query.

    arXiv 2605.30337, section 4: floor, then add where the loss is least, then move single counts.
    |q - c P / k|² = |q|² - 2 c·(P q) / k + c·(P Pᵀ) c / k² gives every loss from a Gram matrix.
    """
    gram, with_query = points @ points.T, points @ query
    diagonal = gram.diagonal()
    counts: Counts = np.floor(k * weights / weights.sum() + 1e-9).astype(np.int64)

    def slope() -> Array:
        change: Array = 2.0 * (gram @ counts) / k**2 - 2.0 * with_query / k
        return change

    for _ in range(k - int(counts.sum())):
        counts[np.argmin(slope() + diagonal / k**2)] += 1
    for _ in range(_PASSES):
        moved = False
        for source in np.flatnonzero(counts):
            change = slope()
            change = change - change[source]
            change = change + (diagonal + diagonal[source] - 2.0 * gram[source]) / k**2
            target = int(np.argmin(change))
            if counts[source] and change[target] < -_ROUNDING:
                counts[source] -= 1
                counts[target] += 1
                moved = True
        if not moved:
            break
    return counts
