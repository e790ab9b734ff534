"""SIFT over candidates that an index finds as they are needed, instead of all beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from langchain_sift.selection.greedy import (
    Selection,
    as_matrices,
    check_arguments,
    first_of_highest,
    is_enough,
    make_selection,
)

Array = npt.NDArray[np.float64]


def select_residual(
    query_embeddings: Any,
    search: Callable[[Array], Any],
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose from all that an index holds, by asking it again before each choice.

    SIFT's gain is cov(x, x*)² / (σ²(x) + λ'), and cov(x, x*) = ⟨x, P x*⟩ with P the posterior
    covariance operator: what gains most lies near the residual direction ±P x*, that part of
    the query which the choices so far do not explain. Its nearest neighbours become candidates
    before each choice, where a pre-selection taken once knows only the neighbours of x*.
    An index returns what has the largest covariance, which is nearly, not always, what has the
    largest gain: close to `select` over the whole index, and not the same by necessity.

    Args:
        query_embeddings: x*, shape (d,) or (m, d).
        search: Takes at most 2 m directions of unit norm, shape (j, d), and returns the
            embeddings of candidates near them that it has not returned before, shape (i, d);
            i may be 0.
        k: As in `select`.
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
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
    directions = next(steps)
    while True:
        try:
            directions = steps.send(search(directions))
        except StopIteration as end:
            selection: Selection = end.value
            return selection


def residual_steps(
    query_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Generator[Array, Any, Selection]:
    """Do what `select_residual` does, and leave the asking to the caller.

    Yields:
        Directions, as its `search` takes them; wants to be sent what `search` returns.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    queries, _ = as_matrices(query_embeddings, np.empty((0, 0)))
    posterior = _OpenPosterior(queries, noise_variance)
    indices: list[int] = []
    variances = [posterior.query_variance()]
    while len(indices) < k:
        found = yield posterior.directions()
        posterior.extend(as_matrices(queries, found)[1])
        if len(posterior.candidates) == (0 if replace else len(indices)):
            break  # the index has nothing more
        scores = posterior.gains()
        if not replace:
            scores[indices] = -math.inf
        best = first_of_highest(scores, 1e-9)
        posterior.condition(best)
        indices.append(best)
        variances.append(posterior.query_variance())
        if stopping_alpha is not None and is_enough(
            variances[-1], len(queries), len(indices), stopping_alpha
        ):
            break
    return make_selection(indices, variances)


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

    def directions(self) -> Array:
        """Return ±P x*, of unit norm, for every query that is not explained entirely."""
        norms = np.linalg.norm(self._residuals, axis=1)
        open_ = norms > 1e-9 * np.linalg.norm(self._queries, axis=1)
        units = self._residuals[open_] / norms[open_, None]
        return np.concatenate([units, -units])

    def extend(self, candidates: Array) -> None:
        """Add candidates, shape (i, d), as known as what was chosen makes them."""
        along = candidates @ self._rows.T
        variances = np.vecdot(candidates, candidates) - np.vecdot(along, along)
        self.candidates = np.concatenate([self.candidates, candidates])
        self._variances = np.concatenate([self._variances, variances])
        self._covariances = np.hstack([self._covariances, self._residuals @ candidates.T])

    def gains(self) -> Array:
        """Return what each candidate would gain, as `Posterior.gains` does, shape (n,)."""
        explained = np.sum(self._covariances**2, axis=0)
        gains: Array = explained / (self._variances + self._noise_variance)
        return gains

    def condition(self, index: int) -> None:
        """Observe the candidate at `index`."""
        chosen = self.candidates[index]
        scale = math.sqrt(self._variances[index] + self._noise_variance)
        row = (chosen - (self._rows @ chosen) @ self._rows) / scale
        factor = self.candidates @ row
        explained = self._covariances[:, index] / scale
        self._rows = np.vstack([self._rows, row])
        self._residuals -= np.outer(explained, row)
        self._variances -= factor**2
        self._covariances -= np.outer(explained, factor)
