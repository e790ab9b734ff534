"""Choose greedily: score the candidates, take the best, condition on it, repeat.

All methods but HullFT share this loop and differ in their score. With the gains of `Posterior` as
the score it is Algorithm 1 of arXiv 2410.08020, SIFT(λ).

Axes: n candidates, m queries, k choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from langchain_sift.selection.arguments import Matrices
from langchain_sift.selection.posterior import Posterior


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen candidates, in the order of choice, and the variances that they leave."""

    indices: npt.NDArray[np.int64]
    """Rows of the candidates, shape (k,)."""

    gains: npt.NDArray[np.float64]
    """Reduction of the posterior variance by each choice, shape (k,)."""

    posterior_variances: npt.NDArray[np.float64]
    """Posterior variance at the query after each choice, summed over queries, shape (k,)."""

    prior_variance: float
    """Variance at the query before the first choice, summed over queries."""

    @classmethod
    def of(cls, indices: Sequence[int], variances: Sequence[float]) -> Self:
        """Make a selection.

        Args:
            indices: The choices.
            variances: The variance at the query before the first choice and after each.
        """
        # Rounding can take a variance of zero to -1e-17.
        non_negative = np.maximum(np.array(variances, dtype=np.float64), 0.0)
        return cls(
            indices=np.array(indices, dtype=np.int64),
            gains=non_negative[:-1] - non_negative[1:],
            posterior_variances=non_negative[1:],
            prior_variance=variances[0],
        )


class Selector(Protocol):
    """A selection method: `select`, or a baseline with the same signature."""

    def __call__(
        self,
        query_embeddings: Any,
        candidate_embeddings: Any,
        *,
        k: int,
        noise_variance: float = 0.01,
        replace: bool = False,
        stopping_alpha: float | None = None,
    ) -> Selection:
        """Choose at most k candidates; see `langchain_sift.selection.select`."""


class Method(Protocol):
    """A selection method on arguments that were checked before."""

    def __call__(
        self,
        matrices: Matrices,
        *,
        k: int,
        noise_variance: float,
        replace: bool,
        stopping_alpha: float | None,
    ) -> Selection:
        """Choose at most k candidates; see `langchain_sift.selection.select`."""


Score = Callable[[Posterior], Any]
"""Scores all candidates, shape (n,), given the posterior after the choices so far."""


def choose(
    matrices: Matrices,
    score: Score,
    *,
    k: int,
    noise_variance: float,
    replace: bool,
    stopping_alpha: float | None,
    tolerance: float | None = None,
) -> Selection:
    """Choose k times the candidate of the highest score; of equal ones, the first.

    The arguments are not checked again; the functions that users call check them.

    Args:
        matrices: The queries and the candidates.
        score: The score of the method.
        k: As in `select`, and so are the next three.
        noise_variance: λ'.
        replace: If True, a candidate may be chosen again.
        stopping_alpha: α of adaptive SIFT.
        tolerance: The relative difference up to which two scores are equal. None means the
            tolerance of the gains.
    """
    xp, candidates = matrices.xp, matrices.candidates
    n, m = len(candidates), len(matrices.queries)
    steps = 0 if n == 0 else k if replace else min(k, n)
    posterior = Posterior(matrices, noise_variance=noise_variance, capacity=steps)
    if tolerance is None:
        tolerance = posterior.tolerance
    # Added to the scores: minus infinity for a candidate that must not be chosen again.
    penalties = xp.zeros(n, dtype=xp.float64, device=candidates.device)
    variances = [posterior.query_variance]
    for step in range(1, steps + 1):
        # arXiv 2410.08020, Algorithm 1: x_n = argmin over x of σ²_{X ∪ {x}}(x*), as an argmax of
        # gains (`Posterior.gains`); then X ← X ∪ {x_n}.
        scores = score(posterior)
        best = first_of_highest(scores if replace else scores + penalties, tolerance)
        posterior.condition(best)
        variances.append(posterior.query_variance)
        if not replace:
            penalties[best] = -math.inf
        if stopping_alpha is not None and stops_after(
            step, variances[-1], queries=m, alpha=stopping_alpha
        ):
            break
    return Selection.of(posterior.choices, variances)


def first_of_highest(scores: Any, tolerance: float) -> int:
    """Return the index of the highest score, shape (n,); of equal ones, the first.

    BLAS may sum the products of equal rows in different orders, so that their scores differ in
    the last bits. Scores are equal up to a relative difference of `tolerance`.
    """
    highest = float(scores[scores.argmax()])
    return int((scores >= highest - tolerance * abs(highest)).nonzero()[0][0])


def stops_after(choices: int, posterior_variance: float, *, queries: int, alpha: float) -> bool:
    """Return True if adaptive SIFT stops after that many choices.

    Args:
        choices: n, the number of choices so far.
        posterior_variance: The variance that they leave, summed over the queries.
        queries: The number of queries; their mean variance is σ_n².
        alpha: α of the paper.
    """
    # arXiv 2410.08020, section 5: stop at the first n with σ_n > 1 / (α n).
    return math.sqrt(max(posterior_variance, 0.0) / queries) > 1.0 / (alpha * choices)


def stopping_point(posterior_variances: Iterable[float], *, alpha: float) -> int | None:
    """Return after how many choices adaptive SIFT stops for one query.

    Args:
        posterior_variances: The variance after each choice.
        alpha: α of the paper.

    Returns:
        The number of choices. None if SIFT does not stop within them.
    """
    for choices, variance in enumerate(posterior_variances, start=1):
        if stops_after(choices, variance, queries=1, alpha=alpha):
            return choices
    return None
