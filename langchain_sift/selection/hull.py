"""Choose with HullFT: a convex combination of candidates close to the query.

Khamis & Maalouf, arXiv 2605.30337.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import (
    Array,
    Matrices,
    as_matrices,
    as_numpy,
    normalize_rows,
)
from langchain_sift.selection.greedy import Selection, stops_after
from langchain_sift.selection.posterior import Posterior
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings

Counts = npt.NDArray[np.int64]

_ITERATIONS = 100
_CLOSE = 1e-4  # a distance at which the query counts as reached
_ROUNDING = 1e-14
_PASSES = 2  # over the counts, when single counts are moved


def hull(
    query_embeddings: Any, candidate_embeddings: Any, **options: Unpack[SelectionOptions]
) -> Selection:
    """Choose candidates whose mean, repeats counted, comes close to the query.

    Frank-Wolfe finds a convex combination of at most k candidates, its weights are rounded to k
    counts, and the candidates are ordered by falling weight. With `replace` each is chosen as
    often as its count, as in the paper; without, each is chosen once, and there may be fewer than
    k. The choice for a smaller k is no prefix of this one. For several queries their mean counts.

    Arguments, result and errors as in `select`, except that the kernel, `noise_variance` and
    `stopping_alpha` do not change the candidates, only the reported variances and where the
    choice stops. Costs and groups are refused: the combination knows no constraints.
    """
    settings = SelectionSettings(**options)
    if settings.costs is not None or settings.groups is not None:
        raise ArgumentError("hull takes no costs and no groups: use another method")
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    indices = _combination(matrices, k=settings.k, replace=settings.replace)
    posterior = Posterior(matrices, settings, capacity=len(indices))
    variances = [posterior.query_variance]
    alpha = settings.stopping_alpha
    for choices, index in enumerate(indices, start=1):
        posterior.condition(index)
        variances.append(posterior.query_variance)
        if alpha is not None and stops_after(
            choices, variances[-1], queries=len(matrices.queries), alpha=alpha
        ):
            break
    return Selection.of(indices[: len(variances) - 1], variances)


def _combination(matrices: Matrices, *, k: int, replace: bool) -> list[int]:
    """Return the rows of the combination by falling weight; with `replace`, with repeats."""
    if len(matrices.candidates) == 0:
        return []
    xp = matrices.xp
    candidates = as_numpy(normalize_rows(xp, matrices.candidates)).astype(np.float64)
    query = as_numpy(xp.mean(normalize_rows(xp, matrices.queries), axis=0)).astype(np.float64)
    rows, weights = frank_wolfe(query, candidates, k=k)
    if not replace:
        return rows
    counts = round_weights(candidates[rows], query, weights, k)
    return np.repeat(rows, counts).tolist()


def frank_wolfe(query: Array, candidates: Array, *, k: int) -> tuple[list[int], Array]:
    """Find a convex combination of at most k candidates close to the query.

    arXiv 2605.30337, Algorithm 1: minimise |q − Σ w_i x_i|² with exact line search.

    Returns:
        The rows of the candidates by falling weight, and the weights, all positive.
    """
    nearest = int(np.argmax(candidates @ query))
    weights = np.zeros(len(candidates))
    weights[nearest] = 1.0
    point = candidates[nearest].copy()
    support = {nearest}
    for _ in range(_ITERATIONS):
        residual = query - point
        if np.linalg.norm(residual) < _CLOSE or len(support) >= k:
            break
        vertex = int(np.argmax(candidates @ residual))
        direction = candidates[vertex] - point
        squared_length = direction @ direction
        step = 0.0
        if squared_length > 0:
            step = float(np.clip(residual @ direction / squared_length, 0.0, 1.0))
        if step == 0.0:  # no vertex is closer: the point is the nearest of the hull
            break
        weights *= 1.0 - step
        weights[vertex] += step
        point += step * direction
        support.add(vertex)
    rows = sorted((row for row in support if weights[row] > 0), key=lambda row: -weights[row])
    return rows, weights[rows]


def round_weights(points: Array, query: Array, weights: Array, k: int) -> Counts:
    """Round weights to counts, k in all, whose mean of the points comes close to the query.

    arXiv 2605.30337, section 4: round down, add counts where the loss is lowest, then move single
    counts. Every loss comes from a Gram matrix:
    |q − c P / k|² = |q|² − 2 c·(P q) / k + c·(P Pᵀ) c / k².
    """
    gram, with_query = points @ points.T, points @ query
    diagonal = gram.diagonal()
    counts: Counts = np.floor(k * weights / weights.sum() + 1e-9).astype(np.int64)

    def slope() -> Array:
        gradient: Array = 2.0 * (gram @ counts) / k**2 - 2.0 * with_query / k
        return gradient

    for _ in range(k - int(counts.sum())):
        counts[np.argmin(slope() + diagonal / k**2)] += 1
    for _ in range(_PASSES):
        has_moved = False
        for source in np.flatnonzero(counts):
            change = slope()
            change = change - change[source]
            change = change + (diagonal + diagonal[source] - 2.0 * gram[source]) / k**2
            target = int(np.argmin(change))
            if counts[source] and change[target] < -_ROUNDING:
                counts[source] -= 1
                counts[target] += 1
                has_moved = True
        if not has_moved:
            break
    return counts
