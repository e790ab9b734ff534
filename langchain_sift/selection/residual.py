"""Choose with SIFT from an index that is queried before each choice.

Axes: n candidates, d dimensions, m queries, k choices, i new candidates, j directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from langchain_sift.checks import check_count
from langchain_sift.selection.arguments import (
    Array,
    as_matrices,
    as_numpy,
    check_arguments,
)
from langchain_sift.selection.greedy import Selection, first_of_highest, stops_after
from langchain_sift.selection.opposites import NO_INFORMATION, opposite_cosines
from langchain_sift.selection.posterior import check_noise

_TOLERANCE = 1e-9  # relative; equal rows may have products that differ in the last bits


def select_residual(
    query_embeddings: Any,
    search: Callable[[Array, int], Any],
    *,
    k: int,
    step_fetch_k: int = 5,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose from all rows of an index; search it again before each choice.

    With the posterior covariance operator P = I − UᵀU, SIFT's gain from a row x of unit norm is

        g(x) = ⟨x, P x*⟩² / (1 + λ' − ‖U x‖²)

    Before each choice the index is searched in three directions:

    - ±P x*, the residual: the part of the query that the choices do not explain. Rows near it
      have the largest numerator. Candidates fetched once know only the neighbours of x*.
    - ∇g at x, the best candidate that may be chosen. Rows with a small denominator lie near the
      choices, on either side of the residual. In the unit ball g is convex, being a squared
      linear function over a concave one, so that g(x') ≥ g(x) + ⟨∇g(x), x' − x⟩: each row
      farther along ∇g than x has a larger gain.

    The directions exist for the linear kernel alone. An index may hold a better row that is near
    none of the three. The choice is close to that of `select` over the whole index, and not always
    the same (`tests/benchmarks/results/candidate_search.json`).

    Args:
        query_embeddings: x*, shape (d,) or (m, d).
        search: Takes j ≤ 2 m + 1 directions of unit norm, shape (j, d), and a count. Returns the
            embeddings, shape (i, d), of the `count` rows nearest to each direction, without those
            that it returned before; i and j may be 0.
        k: As in `select`.
        step_fetch_k: Rows to fetch in each direction before each choice, at least 1. The count is
            larger if rows that must not be chosen again may be among the nearest.
        noise_variance: As in `select`.
        replace: As in `select`.
        stopping_alpha: As in `select`.

    Returns:
        As in `select`; the indices count the rows in the order in which `search` returned them.

    Raises:
        ArgumentError: If an argument is out of range.
        EmbeddingError: If a vector is NaN, infinite, zero, or of the wrong dimension.
    """
    steps = residual_steps(
        query_embeddings,
        k=k,
        step_fetch_k=step_fetch_k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
    directions, count = next(steps)
    while True:
        try:
            directions, count = steps.send(search(directions, count))
        except StopIteration as end:
            selection: Selection = end.value
            return selection


def residual_steps(
    query_embeddings: Any,
    *,
    k: int,
    step_fetch_k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
    opposites_last: bool = False,
) -> Generator[tuple[Array, int], Any, Selection]:
    """Run `select_residual` as a generator; the caller searches the index.

    With `opposites_last`, for vectors of unit norm, rows that point away from all queries are
    chosen after the others, as in `choose_for_retrieval`.

    Yields:
        The arguments of `search`, the directions and the count. Send the rows that it returns.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    check_count("step_fetch_k", step_fetch_k)
    queries = as_matrices(as_numpy(query_embeddings), []).queries
    posterior = _OperatorPosterior(queries, noise_variance, opposites_last=opposites_last)
    indices: list[int] = []
    variances = [posterior.query_variance()]
    excluded = [] if replace else indices  # the same list, which grows with every choice
    while len(indices) < k:
        directions = posterior.directions(excluded)
        more = posterior.excluded_among_nearest(directions, excluded, step_fetch_k)
        rows = yield directions, step_fetch_k + more
        posterior.add(as_matrices(queries, as_numpy(rows)).candidates)
        best = posterior.best(excluded)
        if best is None:
            break  # the index has no more rows
        posterior.condition(best)
        indices.append(best)
        variances.append(posterior.query_variance())
        if stopping_alpha is not None and stops_after(
            len(indices), variances[-1], queries=len(queries), alpha=stopping_alpha
        ):
            break
    return Selection.of(indices, variances)


class _OperatorPosterior:
    """The posterior over the whole space, so that candidates can be added at any time.

    Rasmussen & Williams (2006), eq. 2.26, with the operator P = I − UᵀU in place of kernel
    matrices: σ²_X(x*) = ⟨x*, P x*⟩ and cov_X(x, x*) = ⟨x, P x*⟩. A choice x_n adds the row
    u_n = P x_n / √(σ²_X(x_n) + λ') to U.

    Attributes:
        candidates: All candidates so far, shape (n, d).
    """

    def __init__(self, queries: Array, noise_variance: float, *, opposites_last: bool) -> None:
        self._queries = queries
        self._noise_variance = noise_variance
        self._opposites_last = opposites_last
        self._residuals = queries.copy()  # P x*, shape (m, d)
        self._u = np.empty((0, queries.shape[1]))  # U, shape (k, d)
        self.candidates = np.empty((0, queries.shape[1]))
        self._penalties = np.empty(0)  # negative for a candidate that comes last, else 0
        self._variances = np.empty(0)  # σ²_X(x), shape (n,)
        self._covariances = np.empty((len(queries), 0))  # cov_X(x, x*), shape (m, n)

    def query_variance(self) -> float:
        """Compute the sum of ⟨x*, P x*⟩ over the queries."""
        return float(np.vdot(self._queries, self._residuals))

    def directions(self, excluded: Sequence[int]) -> Array:
        """Compute ±P x* of each query that is not fully explained, and ∇g; all of unit norm.

        If only rows that come last are left, x* too.

        Args:
            excluded: Candidates that must not be chosen again.
        """
        norms = np.linalg.norm(self._residuals, axis=1)
        is_unexplained = norms > _TOLERANCE * np.linalg.norm(self._queries, axis=1)
        units = self._residuals[is_unexplained] / norms[is_unexplained, None]
        directions = [units, -units]
        best = self.best(excluded)
        if len(units) and best is not None:
            gradient = self._gradient(best)
            if (norm := np.linalg.norm(gradient)) > 0.0:
                directions.append(gradient[None] / norm)
        if best is not None and self._penalties[best] < 0.0:
            directions.append(self._queries)  # the index may have a row that does not come last
        return np.concatenate(directions)

    def excluded_among_nearest(self, directions: Array, excluded: Sequence[int], count: int) -> int:
        """Return the largest number of excluded candidates among the nearest to one direction.

        Args:
            directions: Shape (j, d).
            excluded: Candidates that must not be chosen again.
            count: Number of other rows to be fetched. Only excluded candidates as near as the
                `count` nearest of the other known candidates can stand before them.
        """
        if not excluded:
            return 0
        similarities = directions @ self.candidates.T
        others = np.delete(similarities, excluded, axis=1)
        if others.shape[1] < count:
            return len(excluded)
        lowest = np.partition(others, -count, axis=1)[:, -count, None]
        # An index may sum the products of equal rows in another order.
        is_nearer = similarities[:, excluded] >= lowest - _TOLERANCE
        return int(np.sum(is_nearer, axis=1).max(initial=0))

    def add(self, candidates: Array) -> None:
        """Add candidates, shape (i, d), conditioned on the choices so far."""
        v = candidates @ self._u.T
        norms = np.vecdot(candidates, candidates)
        check_noise(self._noise_variance, float(norms.max(initial=1.0)))
        penalties = np.zeros(len(candidates))
        if self._opposites_last:
            penalties = opposite_cosines(self._queries, candidates)
        self._penalties = np.concatenate([self._penalties, penalties])
        self.candidates = np.concatenate([self.candidates, candidates])
        self._variances = np.concatenate([self._variances, norms - np.vecdot(v, v)])
        self._covariances = np.hstack([self._covariances, self._residuals @ candidates.T])

    def best(self, excluded: Sequence[int]) -> int | None:
        """Return the candidate to choose. None if every candidate is excluded."""
        if len(self.candidates) == len(excluded):
            return None
        scores = np.sum(self._covariances**2, axis=0) / self._noisy_variances() + self._penalties
        scores[excluded] = -math.inf
        return first_of_highest(scores, _TOLERANCE)

    def condition(self, index: int) -> None:
        """Add the candidate at `index` to the choices."""
        x_n = self.candidates[index]
        pivot = math.sqrt(self._noisy_variances()[index])
        u_n = (x_n - (self._u @ x_n) @ self._u) / pivot  # P x_n / √(σ²_X(x_n) + λ')
        v_n = self.candidates @ u_n
        v_n_queries = self._covariances[:, index] / pivot  # ⟨u_n, x*⟩
        self._u = np.vstack([self._u, u_n])
        self._residuals -= np.outer(v_n_queries, u_n)
        self._variances -= v_n**2
        self._covariances -= np.outer(v_n_queries, v_n)

    def _noisy_variances(self) -> Array:
        """Compute σ²_X(x) + λ' of each candidate, shape (n,)."""
        # Rounding over many choices can take σ²_X(x) below zero by as much as λ'.
        noise = np.where(self._penalties < 0.0, NO_INFORMATION, self._noise_variance)
        return np.maximum(self._variances, 0.0) + noise

    def _gradient(self, index: int) -> Array:
        """Compute the direction of ∇g at the candidate at `index`, shape (d,)."""
        covariances = self._covariances[:, index]
        gain = covariances @ covariances / self._noisy_variances()[index]
        explained = (self._u @ self.candidates[index]) @ self._u  # UᵀU x
        gradient: Array = covariances @ self._residuals + gain * explained
        return gradient
