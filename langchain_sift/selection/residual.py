"""SIFT over candidates that an index finds as they are needed, instead of all beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from langchain_sift.checks import check_count
from langchain_sift.selection.arguments import (
    Array,
    as_matrices,
    as_numpy,
    check_arguments,
    check_noise,
)
from langchain_sift.selection.greedy import Selection, first_of_highest, stops_after


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
    """Choose from all that an index holds, by asking it again before each choice.

    With P = I - UᵀU the posterior covariance operator, SIFT's gain from a row of unit norm is

        g(x) = ⟨x, P x*⟩² / (1 + λ' - ‖U x‖²)

    and before each choice the index is asked in three directions. What has the largest
    numerator lies nearest to the residual ±P x*, that part of the query which the choices so
    far do not explain; a pre-selection taken once knows only the neighbours of x*. What has a
    small denominator lies near the choices, on either side of the residual: in the direction of
    ∇g at x, for x the best candidate that is not chosen yet. In the unit ball g is convex, as a
    squared linear function over a concave one is, so that g(x') ≥ g(x) + ⟨∇g(x), x' - x⟩:
    whatever lies farther along than x gains more.
    An index may still hold a better row that is near to none of the three: close to `select`
    over the whole index, and not the same by necessity.

    Args:
        query_embeddings: x*, shape (d,) or (m, d).
        search: Takes at most 2 m + 1 directions of unit norm, shape (j, d), and a count, and
            returns the embeddings of the so many rows nearest to each of them, those that it
            has not returned before, shape (i, d); i and j may be 0.
        k: As in `select`.
        step_fetch_k: How many rows in each direction before each choice, at least 1. So many
            are asked for more as choices may stand before them, if none is chosen twice.
        noise_variance: As in `select`.
        replace: As in `select`.
        stopping_alpha: As in `select`.

    Returns:
        As `select`; the indices count the candidates in the order in which `search` gave them.

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
    asked = next(steps)
    while True:
        try:
            asked = steps.send(search(*asked))
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
) -> Generator[tuple[Array, int], Any, Selection]:
    """Do what `select_residual` does, and leave the asking to the caller.

    Yields:
        Directions and a count, as its `search` takes them; wants to be sent what it returns.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    check_count("step_fetch_k", step_fetch_k)
    queries = as_matrices(as_numpy(query_embeddings), []).queries
    posterior = _OpenPosterior(queries, noise_variance)
    indices: list[int] = []
    variances = [posterior.query_variance()]
    closed = [] if replace else indices  # grows with it: what may not be chosen any more
    while len(indices) < k:
        directions = posterior.directions(closed)
        found = yield directions, step_fetch_k + posterior.before(directions, closed, step_fetch_k)
        posterior.extend(as_matrices(queries, as_numpy(found)).candidates)
        best = posterior.best(closed)
        if best is None:
            break  # the index has nothing more
        posterior.condition(best)
        indices.append(best)
        variances.append(posterior.query_variance())
        if stops_after(len(indices), variances[-1], queries=len(queries), alpha=stopping_alpha):
            break
    return Selection.of(indices, variances)


class _OpenPosterior:
    """A posterior over the whole space, so that candidates may join at any time.

    P = I - UᵀU, where each choice adds the row (P x) / √(σ²(x) + λ') to U: Rasmussen &
    Williams (2006), eq. 2.26, in feature space.
    """

    def __init__(self, queries: Array, noise_variance: float) -> None:
        self._queries = queries
        self._noise_variance = noise_variance
        self._residuals = queries.copy()  # P x*
        self._rows = np.empty((0, queries.shape[1]))  # U
        self.candidates = np.empty((0, queries.shape[1]))
        self._variances = np.empty(0)
        self._covariances = np.empty((len(queries), 0))

    def query_variance(self) -> float:
        """Return the sum of ⟨x*, P x*⟩ over the queries."""
        return float(np.vdot(self._queries, self._residuals))

    def directions(self, closed: list[int]) -> Array:
        """Return ±P x* for every query that is not explained entirely, and ∇g; of unit norm.

        Args:
            closed: Candidates that may not be chosen any more.
        """
        norms = np.linalg.norm(self._residuals, axis=1)
        open_ = norms > 1e-9 * np.linalg.norm(self._queries, axis=1)
        units = self._residuals[open_] / norms[open_, None]
        directions = [units, -units]
        if len(units) and (best := self.best(closed)) is not None:
            gradient = self._gradient(best)
            if (norm := np.linalg.norm(gradient)) > 0.0:
                directions.append(gradient[None] / norm)
        return np.concatenate(directions)

    def before(self, directions: Array, closed: list[int], count: int) -> int:
        """Return how many closed candidates may stand before the `count` nearest of the others.

        Not before the `count` nearest of the known others, then not before those of all.
        """
        if not closed:
            return 0
        nearness = directions @ self.candidates.T
        others = np.delete(nearness, closed, axis=1)
        if others.shape[1] < count:
            return len(closed)
        last = np.partition(others, -count, axis=1)[:, -count, None]
        # An index may sum the products of equal rows in another order.
        standing = np.sum(nearness[:, closed] >= last - 1e-9, axis=1)
        return int(standing.max(initial=0))

    def extend(self, candidates: Array) -> None:
        """Add candidates, shape (i, d), as known as what was chosen makes them."""
        along = candidates @ self._rows.T
        norms = np.vecdot(candidates, candidates)
        check_noise(self._noise_variance, float(norms.max(initial=1.0)))
        variances = norms - np.vecdot(along, along)
        self.candidates = np.concatenate([self.candidates, candidates])
        self._variances = np.concatenate([self._variances, variances])
        self._covariances = np.hstack([self._covariances, self._residuals @ candidates.T])

    def best(self, closed: list[int]) -> int | None:
        """Return the candidate of the largest gain that is not closed; None if there is none."""
        if len(self.candidates) == len(closed):
            return None
        gains = np.sum(self._covariances**2, axis=0) / self._noisy_variances()
        gains[closed] = -math.inf
        return first_of_highest(gains, 1e-9)

    def condition(self, index: int) -> None:
        """Observe the candidate at `index`."""
        chosen = self.candidates[index]
        scale = math.sqrt(self._noisy_variances()[index])
        row = (chosen - (self._rows @ chosen) @ self._rows) / scale
        factor = self.candidates @ row
        explained = self._covariances[:, index] / scale
        self._rows = np.vstack([self._rows, row])
        self._residuals -= np.outer(explained, row)
        self._variances -= factor**2
        self._covariances -= np.outer(explained, factor)

    def _noisy_variances(self) -> Array:
        # The rounding of many choices may be as much as λ'.
        noisy: Array = np.maximum(self._variances, 0.0) + self._noise_variance
        return noisy

    def _gradient(self, index: int) -> Array:
        """Return the direction of ∇g at the candidate at `index`, shape (d,)."""
        covariances = self._covariances[:, index]
        slope = covariances @ covariances / self._noisy_variances()[index]
        known = (self._rows @ self.candidates[index]) @ self._rows  # UᵀU x
        gradient: Array = covariances @ self._residuals + slope * known
        return gradient
