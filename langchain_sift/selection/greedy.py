"""One loop for every method: score the candidates, take the best, condition on it, again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import array_api_compat
import numpy as np
import numpy.typing as npt

from langchain_sift.selection.arguments import check_arguments
from langchain_sift.selection.posterior import Posterior


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, in the order of choice, and what it did to the uncertainty."""

    indices: npt.NDArray[np.int64]
    """Rows of the candidates, shape (k,)."""

    gains: npt.NDArray[np.float64]
    """By how much each choice lowered the posterior variance, shape (k,)."""

    posterior_variances: npt.NDArray[np.float64]
    """Posterior variance at the query after each choice, summed over queries, shape (k,)."""

    prior_variance: float
    """Variance at the query before the first choice, summed over queries."""


class Selector(Protocol):
    """A way to choose: `select`, or any of its rivals."""

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


# The scores of all candidates, shape (n,), given what is known and what was chosen so far.
Score = Callable[[Posterior, list[int]], Any]


def choose(
    queries: Any,
    candidates: Any,
    score: Score,
    *,
    k: int,
    noise_variance: float,
    replace: bool,
    stopping_alpha: float | None,
    rounding: float | None = None,
) -> Selection:
    """Take k times the candidate of the highest score; the first of equals.

    The arrays are those that `as_matrices` returned; the other arguments are `select`'s, and
    `rounding`: by how much, relatively, equal scores may differ; by default as much as gains.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    xp = array_api_compat.array_namespace(queries, candidates)
    count = candidates.shape[0]
    steps = 0 if count == 0 else k if replace else min(k, count)
    posterior = Posterior(xp, queries, candidates, noise_variance=noise_variance, capacity=steps)
    rounding = posterior.rounding if rounding is None else rounding
    # Zero for what may be chosen, minus infinity for what may not.
    barred = xp.zeros(count, dtype=xp.float64, device=candidates.device)
    indices: list[int] = []
    variances = [posterior.query_variance]
    for _ in range(steps):
        scores = score(posterior, indices)
        best = first_of_highest(scores if replace else scores + barred, rounding)
        posterior.condition(best)
        indices.append(best)
        variances.append(posterior.query_variance)
        if not replace:
            barred[best] = -math.inf
        if stops_after(len(indices), variances[-1], queries=queries.shape[0], alpha=stopping_alpha):
            break
    return make_selection(indices, variances)


def make_selection(indices: list[int], variances: list[float]) -> Selection:
    """Return the result, given the variances at first and after each choice."""
    # Rounding can take a variance that should be zero to -1e-17.
    left = np.maximum(np.array(variances, dtype=np.float64), 0.0)
    return Selection(
        indices=np.array(indices, dtype=np.int64),
        gains=left[:-1] - left[1:],
        posterior_variances=left[1:],
        prior_variance=variances[0],
    )


def first_of_highest(scores: Any, rounding: float) -> int:
    """Return the place of the highest score, shape (n,); of those equal to rounding the first."""
    best = int(scores.argmax())
    highest = float(scores[best])
    scores[best] = -math.inf
    rival = float(scores[int(scores.argmax())])
    scores[best] = highest
    # BLAS may sum equal rows in different orders, so that their scores differ in the last bits.
    bound = highest - rounding * abs(highest)
    if rival < bound:
        return best
    return next(place for place, score in enumerate(scores.tolist()) if score >= bound)


def stops_after(
    choices: int, posterior_variance: float, *, queries: int, alpha: float | None
) -> bool:
    """Return True if adaptive SIFT stops after that many choices.

    Args:
        choices: n, the number of choices so far.
        posterior_variance: The variance that they leave, summed over the queries.
        queries: The number of queries; their mean variance is σ_n².
        alpha: α of the paper. None never stops.
    """
    if alpha is None:
        return False
    # arXiv 2410.08020, section 5: stop at the first n with σ_n > 1 / (α n).
    return math.sqrt(max(posterior_variance, 0.0) / queries) > 1.0 / (alpha * choices)


def stopping_point(posterior_variances: Iterable[float], *, alpha: float | None) -> int | None:
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
