"""One loop for every method: score the candidates, take the best, condition on it, again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import array_api_compat
import numpy as np
import numpy.typing as npt

from langchain_sift.checks import check_count, check_positive
from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.selection.posterior import LEAST_NOISE_VARIANCE, Posterior


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
        if stopping_alpha is not None and is_enough(
            posterior.query_variance, queries.shape[0], len(indices), stopping_alpha
        ):
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


def is_enough(variance: float, queries: int, steps: int, alpha: float) -> bool:
    """Return whether adaptive SIFT stops after that many steps."""
    # arXiv 2410.08020, section 5: stop at the first n with σ_n > 1 / (α n). The mean over the
    # queries, so that the rule is the same for one and for several.
    return math.sqrt(max(variance, 0.0) / queries) > 1.0 / (alpha * steps)


def as_matrices(query_embeddings: Any, candidate_embeddings: Any) -> tuple[Any, Any]:
    """Return both as matrices of one array library and type, checked.

    float32 stays float32; anything else becomes float64.

    Raises:
        EmbeddingError: If a vector is NaN, infinite or zero, or the dimensions differ.
    """
    query_embeddings = _as_array(query_embeddings)
    candidate_embeddings = _as_array(candidate_embeddings)
    xp = array_api_compat.array_namespace(query_embeddings, candidate_embeddings)
    single = query_embeddings.dtype == candidate_embeddings.dtype == xp.float32
    dtype = xp.float32 if single else xp.float64
    queries = xp.astype(query_embeddings, dtype, copy=False)
    candidates = xp.astype(candidate_embeddings, dtype, copy=False)
    if queries.ndim == 1:
        queries = queries[None, :]
    if queries.ndim != 2 or queries.shape[0] == 0:
        raise EmbeddingError(
            f"query_embeddings must have shape (d,) or (m, d), got {query_embeddings.shape}"
        )
    if candidates.ndim == 1 and not candidates.shape[0]:  # an empty list
        candidates = xp.reshape(candidates, (0, queries.shape[1]))
    if candidates.ndim != 2:
        raise EmbeddingError(
            f"candidate_embeddings must have shape (n, d), got {candidate_embeddings.shape}"
        )
    if candidates.shape[0] and queries.shape[1] != candidates.shape[1]:
        raise EmbeddingError(
            f"the query has {queries.shape[1]} dimensions and the candidates have "
            f"{candidates.shape[1]}: embed both with the same model"
        )
    _check_rows(xp, queries, "query_embeddings")
    _check_rows(xp, candidates, "candidate_embeddings")
    return queries, candidates


def _as_array(embeddings: Any) -> Any:
    if isinstance(embeddings, list | tuple):
        try:
            return np.asarray(embeddings, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise EmbeddingError(
                f"embeddings must be numbers, as many in each row as in the others: {error}"
            ) from None
    # A model's output may carry its graph; nothing is learned from a choice.
    return embeddings.detach() if array_api_compat.is_torch_array(embeddings) else embeddings


def _check_rows(xp: Any, matrix: Any, name: str) -> None:
    if matrix.shape[0] == 0:
        return
    squared_norms = xp.vecdot(matrix, matrix)
    # Infinity and NaN fail this as well; one pass over the matrix is enough.
    if float(squared_norms.min()) > 0.0 and float(squared_norms.max()) < math.inf:
        return
    good = (squared_norms > 0.0) & (squared_norms < math.inf)
    row = int(xp.argmin(xp.astype(good, xp.int8)))
    if not bool(xp.all(xp.isfinite(matrix[row, :]))):
        msg = f"{name} must be finite, got NaN or infinity in row {row}: embed that text again"
    elif bool(xp.any(matrix[row, :] != 0)):
        msg = f"{name} must be of about unit norm, got one beyond its type's range in row {row}"
    else:
        msg = f"{name} must not be zero, got zeros in row {row}: embed that text again"
    raise EmbeddingError(msg)


def check_arguments(k: int, noise_variance: float, stopping_alpha: float | None) -> None:
    """Reject what no method can work with.

    Raises:
        ArgumentError: If a value is out of range.
    """
    check_count("k", k)
    check_positive("noise_variance", noise_variance)
    if noise_variance < LEAST_NOISE_VARIANCE:
        raise ArgumentError(
            f"noise_variance must be at least {LEAST_NOISE_VARIANCE}, got {noise_variance!r}: "
            "less is lost in the rounding of float64"
        )
    check_positive("stopping_alpha", stopping_alpha, optional=True)


def cosine_similarities(xp: Any, queries: Any, candidates: Any) -> Any:
    """Return the mean over the queries of the cosine with each candidate, shape (n,)."""
    units = unit_rows(xp, candidates)
    return units @ xp.mean(unit_rows(xp, queries), axis=0)


def as_numpy(array: Any) -> Any:
    """Return an array of any library, or a list, as one of NumPy's."""
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu()
    return np.asarray(array)


def unit_rows(xp: Any, matrix: Any) -> Any:
    """Return the rows scaled to norm one."""
    return matrix / xp.sqrt(xp.sum(matrix * matrix, axis=1, keepdims=True))
