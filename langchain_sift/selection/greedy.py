"""Choose greedily: score the candidates, take the best, condition on it, repeat.

All methods but HullFT share this loop and differ in their score. With the gains of `Posterior` as
the score it is Algorithm 1 of arXiv 2410.08020, SIFT(λ).

Axes: n candidates, m queries, k choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, Unpack

import numpy as np
import numpy.typing as npt

from langchain_sift.selection.arguments import Matrices
from langchain_sift.selection.eligibility import Eligibility
from langchain_sift.selection.posterior import Posterior
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings


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
    """A selection method: `select`, or a baseline with the same keyword arguments."""

    def __call__(
        self,
        query_embeddings: Any,
        candidate_embeddings: Any,
        **options: Unpack[SelectionOptions],
    ) -> Selection:
        """Choose at most k candidates; see `langchain_sift.selection.select`."""


Method = Callable[[Matrices, SelectionSettings], Selection]
"""A selection method on arguments that were checked before."""


def method_of(selector: Selector) -> Method:
    """Return a selector as a method on checked arguments; it checks them again."""

    def method(matrices: Matrices, settings: SelectionSettings) -> Selection:
        return selector(matrices.queries, matrices.candidates, **settings.options())

    return method


Score = Callable[[Posterior], Any]
"""Scores all candidates, shape (n,), given the posterior after the choices so far."""


def choose(
    matrices: Matrices,
    settings: SelectionSettings,
    *,
    score: Score,
    tolerance: float | None = None,
) -> Selection:
    """Choose k times the candidate of the highest score; of equal ones, the first.

    Args:
        matrices: The queries and the candidates.
        settings: The settings of the selection.
        score: The score of the method.
        tolerance: The relative difference up to which two scores are equal. None means the
            tolerance of the gains.

    Raises:
        ArgumentError: If the settings have a number of costs, groups or noise variances that is
            not that of the candidates, or λ' is lost in rounding.
    """
    n, m = len(matrices.candidates), len(matrices.queries)
    steps = 0 if n == 0 else settings.k if settings.replace else min(settings.k, n)
    posterior = Posterior(matrices, settings, capacity=steps)
    eligible = Eligibility(matrices, settings)
    if tolerance is None:
        tolerance = posterior.tolerance
    variances = [posterior.query_variance]
    for step in range(1, steps + 1):
        if not eligible.any():
            break
        # arXiv 2410.08020, Algorithm 1: x_n = argmin over x of σ²_{X ∪ {x}}(x*), as an argmax of
        # gains (`Posterior.gains`); then X ← X ∪ {x_n}.
        best = first_of_highest(eligible.scores(score(posterior)), tolerance)
        posterior.condition(best)
        variances.append(posterior.query_variance)
        eligible.choose(best)
        if settings.stopping_alpha is not None and stops_after(
            step, variances[-1], queries=m, alpha=settings.stopping_alpha
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
