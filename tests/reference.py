"""The oracle of the tests: SIFT from its formula, by brute force.

Imports nothing of the package, solves the whole kernel matrix for every candidate at every
step, and carries nothing from one step to the next. Axes: n candidates, d dimensions, m queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray


def posterior_variance(queries: Array, observed: Array, noise_variance: float) -> float:
    """σ²_X(x*) = k(x*, x*) − k_X(x*)ᵀ (K_X + λ' I)⁻¹ k_X(x*), summed over the queries."""
    prior = float(sum(query @ query for query in queries))
    if len(observed) == 0:
        return prior
    kernel_matrix = np.array([[float(left @ right) for right in observed] for left in observed])
    noisy = kernel_matrix + noise_variance * np.eye(len(observed))
    covariances = observed @ queries.T
    return prior - float(np.trace(covariances.T @ np.linalg.solve(noisy, covariances)))


def variances_if_chosen(
    queries: Array, candidates: Array, chosen: Sequence[int], noise_variance: float
) -> Array:
    """Return what the queries' variance would be after each candidate, shape (n,)."""
    return np.array(
        [
            posterior_variance(queries, candidates[[*chosen, index]], noise_variance)
            for index in range(len(candidates))
        ]
    )


def own_variances(candidates: Array, chosen: Sequence[int], noise_variance: float) -> Array:
    """Return each candidate's own posterior variance, shape (n,)."""
    observed = candidates[list(chosen)]
    return np.array([posterior_variance(row[None], observed, noise_variance) for row in candidates])


def sift(
    queries: Array, candidates: Array, *, k: int, noise_variance: float, replace: bool = False
) -> tuple[list[int], list[float]]:
    """Return the greedy choice and the variance after each; the first of equals."""
    chosen: list[int] = []
    variances: list[float] = []
    for _ in range(k if replace else min(k, len(candidates))):
        after = variances_if_chosen(queries, candidates, chosen, noise_variance)
        if not replace:
            after[chosen] = np.inf
        chosen.append(int(np.argmin(after)))
        variances.append(float(after[chosen[-1]]))
    return chosen, variances


@dataclass(frozen=True)
class Problem:
    """One random case for every method."""

    queries: Array
    candidates: Array
    k: int
    noise_variance: float
    replace: bool


@st.composite
def problems(draw: st.DrawFn, *, duplicates: bool = True) -> Problem:
    """Draw a case of 1 to 3 queries; some of its candidates may be near-duplicates."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d, m = draw(st.integers(1, 20)), draw(st.integers(2, 16)), draw(st.integers(1, 3))
    candidates = rng.standard_normal((n, d)) + draw(st.sampled_from([0.0, 0.5]))
    if duplicates and draw(st.booleans()):
        copied = rng.integers(0, n, size=n // 2)
        candidates[: len(copied)] = candidates[copied] + 1e-7 * rng.standard_normal((n // 2, d))
    queries = rng.standard_normal((m, d))
    if draw(st.booleans()):
        candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return Problem(
        queries,
        candidates,
        k=draw(st.integers(1, 8)),
        noise_variance=draw(st.sampled_from([1e-3, 0.01, 0.1, 1.0, 30.0])),
        replace=draw(st.booleans()),
    )
