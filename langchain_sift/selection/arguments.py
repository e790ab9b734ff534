"""Convert the arrays of a selection and check its arguments.

Axes: n candidates, d dimensions, m queries, k choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from langchain_sift.checks import check_count, check_positive
from langchain_sift.errors import ArgumentError, EmbeddingError

Array = npt.NDArray[np.float64]
"""A NumPy array of float64: embeddings, similarities, variances."""

LEAST_NOISE_VARIANCE = 1e-12
"""Lower bound of λ': the variances of embeddings of unit norm are exact to about 1e-15."""


def check_arguments(k: int, noise_variance: Any, stopping_alpha: float | None) -> None:
    """Check the numbers that every method takes.

    Raises:
        ArgumentError: If a value is out of range.
    """
    check_count("k", k)
    if isinstance(noise_variance, float | int) or np.ndim(noise_variance) == 0:
        check_positive("noise_variance", noise_variance)
        least = noise_variance
    else:
        least = check_numbers("noise_variance", noise_variance)
    if least < LEAST_NOISE_VARIANCE:
        raise ArgumentError(
            f"noise_variance must be at least {LEAST_NOISE_VARIANCE}, got {least!r}: "
            "a smaller value is lost in the rounding of float64"
        )
    check_positive("stopping_alpha", stopping_alpha, optional=True)


def check_numbers(name: str, values: Any) -> float:
    """Check an array of positive finite numbers, one for each candidate; return the least.

    Raises:
        ArgumentError: If a value is not positive, or not finite; the message names its row.
    """
    numbers = np.asarray(as_numpy(values))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ArgumentError(
            f"{name} must have shape (n,), a number for each candidate, got shape {numbers.shape} "
            f"of {numbers.dtype}"
        )
    invalid = np.flatnonzero(~(np.isfinite(numbers) & (numbers > 0)))
    if len(invalid):
        row = int(invalid[0])
        raise ArgumentError(
            f"{name} must be positive and finite, got {numbers[row]} for candidate {row}"
        )
    return float(numbers.min()) if len(numbers) else 1.0


@dataclass(frozen=True, slots=True)
class Matrices:
    """The embeddings of a selection, checked: of one array library, type and device."""

    xp: Any
    """Their namespace, as the array API standard defines it."""

    queries: Any
    """Shape (m, d)."""

    candidates: Any
    """Shape (n, d)."""

    squared_norms: Any
    """‖x‖² of each candidate, shape (n,): the prior variance k(x, x) of the linear kernel."""


def as_matrices(query_embeddings: Any, candidate_embeddings: Any) -> Matrices:
    """Convert both to matrices of one array library and type, and check their rows.

    float32 stays float32; any other type becomes float64.

    Raises:
        EmbeddingError: If a vector is NaN, infinite or zero, or the dimensions differ.
    """
    query_embeddings = _as_array(query_embeddings)
    candidate_embeddings = _as_array(candidate_embeddings)
    xp = array_api_compat.array_namespace(query_embeddings, candidate_embeddings)
    both_single = query_embeddings.dtype == candidate_embeddings.dtype == xp.float32
    dtype = xp.float32 if both_single else xp.float64
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
    squared_norms = [xp.vecdot(rows, rows) for rows in (queries, candidates)]
    _check_rows(xp, queries, squared_norms[0], "query_embeddings")
    _check_rows(xp, candidates, squared_norms[1], "candidate_embeddings")
    return Matrices(xp, queries, candidates, squared_norms[1])


def _as_array(embeddings: Any) -> Any:
    if isinstance(embeddings, list | tuple):
        try:
            return np.asarray(embeddings, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise EmbeddingError(
                f"embeddings must be numbers, as many in each row as in the others: {error}"
            ) from None
    # The output of a model may carry its graph of gradients; a selection needs none.
    return embeddings.detach() if array_api_compat.is_torch_array(embeddings) else embeddings


def _check_rows(xp: Any, matrix: Any, squared_norms: Any, name: str) -> None:
    if matrix.shape[0] == 0:
        return
    # NaN and infinity fail this comparison too, so that one pass over the matrix is enough.
    if float(squared_norms.min()) > 0.0 and float(squared_norms.max()) < math.inf:
        return
    valid = (squared_norms > 0.0) & (squared_norms < math.inf)
    row = int(xp.argmin(xp.astype(valid, xp.int8)))
    if not bool(xp.all(xp.isfinite(matrix[row, :]))):
        problem = f"must be finite, got NaN or infinity in row {row}: embed that text again"
    elif bool(xp.any(matrix[row, :] != 0)):
        problem = f"must be of about unit norm, got a length beyond its type's range in row {row}"
    else:
        problem = f"must not be zero, got zeros in row {row}: leave that text out"
    raise EmbeddingError(f"{name} {problem}")


def as_numpy(array: Any) -> Any:
    """Convert an array of any library, or a list, to a NumPy array."""
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu()
    return np.asarray(array)


def normalize_rows(xp: Any, matrix: Any) -> Any:
    """Scale each row to norm one."""
    return matrix / xp.sqrt(xp.sum(matrix * matrix, axis=1, keepdims=True))


def cosine_similarities(matrices: Matrices) -> Any:
    """Compute the cosine of each candidate with the queries, mean over queries, shape (n,)."""
    xp = matrices.xp
    query = xp.mean(normalize_rows(xp, matrices.queries), axis=0)
    return normalize_rows(xp, matrices.candidates) @ query
