"""The oracle of the tests: SIFT from its formula, by brute force.

Imports nothing of the package, solves the whole kernel matrix for every candidate at every
step, and carries nothing from one step to the next. Axes: n candidates, d dimensions, m queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray


Kernel = Callable[[Array, Array], float]


def linear(left: Array, right: Array) -> float:
    """k(x, x') = xᵀx'."""
    return float(left @ right)


def rbf(length_scale: float) -> Kernel:
    """k(x, x') = exp(−‖x − x'‖² / (2 ℓ²))."""
    return lambda left, right: float(np.exp(-np.sum((left - right) ** 2) / (2 * length_scale**2)))


def posterior_variance(
    queries: Array, observed: Array, noise_variance: float | Array, kernel: Kernel = linear
) -> float:
    """σ²_X(x*) = k(x*, x*) − k_X(x*)ᵀ (K_X + diag λ')⁻¹ k_X(x*), summed over the queries.

    The noise variance is a number, or one for each row observed.
    """
    prior = float(sum(kernel(query, query) for query in queries))
    if len(observed) == 0:
        return prior
    kernel_matrix = np.array([[kernel(left, right) for right in observed] for left in observed])
    noisy = kernel_matrix + np.diag(np.broadcast_to(noise_variance, len(observed)))
    covariances = np.array([[kernel(row, query) for query in queries] for row in observed])
    return prior - float(np.trace(covariances.T @ np.linalg.solve(noisy, covariances)))


def variances_if_chosen(
    queries: Array,
    candidates: Array,
    chosen: Sequence[int],
    noise_variance: float | Array,
    kernel: Kernel = linear,
) -> Array:
    """Return what the queries' variance would be after each candidate, shape (n,)."""
    noise = np.broadcast_to(noise_variance, len(candidates))
    sets = [[*chosen, index] for index in range(len(candidates))]
    return np.array(
        [posterior_variance(queries, candidates[rows], noise[rows], kernel) for rows in sets]
    )


def own_variances(candidates: Array, chosen: Sequence[int], noise_variance: float) -> Array:
    """Return each candidate's own posterior variance, shape (n,)."""
    observed = candidates[list(chosen)]
    return np.array([posterior_variance(row[None], observed, noise_variance) for row in candidates])


def sift(
    queries: Array,
    candidates: Array,
    *,
    k: int,
    noise_variance: float | Array,
    replace: bool = False,
    kernel: Kernel = linear,
) -> tuple[list[int], list[float]]:
    """Return the greedy choice and the variance after each; the first of equals."""
    chosen: list[int] = []
    variances: list[float] = []
    for _ in range(k if replace else min(k, len(candidates))):
        after = variances_if_chosen(queries, candidates, chosen, noise_variance, kernel)
        if not replace:
            after[chosen] = np.inf
        chosen.append(int(np.argmin(after)))
        variances.append(float(after[chosen[-1]]))
    return chosen, variances


def points_away(queries: Array, candidates: Array) -> Array:
    """Return True for each candidate of a negative cosine with every query, shape (n,)."""
    queries, candidates = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, candidates)
    )
    return (candidates @ queries.T).max(axis=1) < -1e-6


def retrieval(
    queries: Array,
    candidates: Array,
    *,
    k: int,
    noise_variance: float | Array,
    kernel: Kernel = linear,
) -> tuple[list[int], list[float]]:
    """Return the choice of a retriever, and the variance after each; vectors of unit norm.

    With the linear kernel, SIFT chooses among the candidates that do not point away from every
    query. The others follow, nearest first, and change no variance.
    """
    is_away = points_away(queries, candidates) & (kernel is linear)
    rows, away = np.flatnonzero(~is_away), np.flatnonzero(is_away)
    noise = np.broadcast_to(noise_variance, len(candidates))[rows]
    chosen, variances = sift(queries, candidates[rows], k=k, noise_variance=noise, kernel=kernel)
    highest = (candidates @ queries.T).max(axis=1)
    rest = sorted(away.tolist(), key=lambda row: -highest[row])[: k - len(chosen)]
    prior = posterior_variance(queries, candidates[:0], 1.0, kernel)
    left = variances[-1] if variances else prior
    return [*rows[chosen].tolist(), *rest], [*variances, *[left] * len(rest)]


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


@dataclass(frozen=True)
class ConstrainedProblem:
    """One random case with a kernel, noise variances, costs and groups."""

    problem: Problem
    length_scale: float | None
    """None means the linear kernel."""

    noise: Array
    costs: Array | None
    max_cost: float | None
    groups: Array | None
    max_per_group: int | None

    @property
    def kernel(self) -> Kernel:
        """The kernel as a function."""
        return linear if self.length_scale is None else rbf(self.length_scale)

    def options(self) -> dict[str, object]:
        """Return the keyword arguments of `select`."""
        names = {} if self.length_scale is None else {"length_scale": self.length_scale}
        return {
            "k": self.problem.k,
            "noise_variance": self.noise,
            "kernel": "linear" if self.length_scale is None else "rbf",
            "replace": self.problem.replace,
            "costs": self.costs,
            "max_cost": self.max_cost,
            "groups": self.groups,
            "max_per_group": self.max_per_group,
            **names,
        }

    def allowed(self, chosen: Sequence[int]) -> list[int]:
        """Return the candidates that may be chosen next."""
        rows = range(len(self.problem.candidates))
        if not self.problem.replace:
            rows = [row for row in rows if row not in chosen]
        if self.costs is not None and self.max_cost is not None:
            left = self.max_cost - sum(self.costs[row] for row in chosen)
            rows = [row for row in rows if self.costs[row] <= left]
        if self.groups is not None:
            counts = Counter(self.groups[row] for row in chosen)
            rows = [row for row in rows if counts[self.groups[row]] < self.max_per_group]
        return list(rows)


@st.composite
def constrained_problems(draw: st.DrawFn) -> ConstrainedProblem:
    """Draw a case in which each constraint may be set or not."""
    problem = draw(problems())
    n = len(problem.candidates)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = np.linalg.norm(problem.candidates, axis=1).mean()
    has_costs, has_groups = draw(st.booleans()), draw(st.booleans())
    max_cost = draw(st.sampled_from([None, 1.0, 20.0, 60.0])) if has_costs else None
    has_own_noise = draw(st.booleans())
    factors = rng.choice([1.0, 3.0, 1e3, 1e9], size=n) if has_own_noise else np.ones(n)
    return ConstrainedProblem(
        problem,
        length_scale=draw(st.sampled_from([None, 0.35 * scale, scale, 3.0 * scale])),
        noise=problem.noise_variance * factors,
        costs=rng.integers(1, 30, size=n) if has_costs else None,
        max_cost=max_cost,
        groups=rng.integers(0, 4, size=n) if has_groups else None,
        max_per_group=draw(st.integers(1, 3)) if has_groups else None,
    )
