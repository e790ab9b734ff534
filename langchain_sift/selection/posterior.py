"""A Gaussian process over the candidates, conditioned on one choice at a time.

Axes: n candidates, d dimensions, m queries, k choices.
"""

from __future__ import annotations

from typing import Any


class Posterior:
    """What is known about the candidates and the queries after the choices so far.

    The n x n kernel matrix is never formed and nothing is inverted: each choice appends one
    column of a partial Cholesky factor, which is exact, in O(n (d + k)) time a choice and
    O(n k) memory.

    Attributes:
        variances: Posterior variance of each candidate, shape (n,).
        covariances: Posterior covariance of each query with each candidate, shape (m, n).
        query_variance: Sum of the posterior variances of the queries.
    """

    def __init__(
        self, xp: Any, queries: Any, candidates: Any, *, noise_variance: float, capacity: int
    ) -> None:
        """Start from the prior.

        Args:
            xp: The namespace of the arrays, as `array_api_compat.array_namespace` returns it.
            queries: Shape (m, d).
            candidates: Shape (n, d).
            noise_variance: λ', positive.
            capacity: The largest number of choices that will be observed.
        """
        self._xp = xp
        self._candidates = candidates
        self._noise_variance = noise_variance
        shape = (capacity, candidates.shape[0])
        self._factors = xp.empty(shape, dtype=candidates.dtype, device=candidates.device)
        self._choices = 0
        self.variances = xp.sum(candidates * candidates, axis=1)
        self.covariances = queries @ candidates.T
        self.query_variance = float(xp.sum(queries * queries))

    def gains(self) -> Any:
        """Return by how much each candidate would lower the queries' variance, shape (n,)."""
        # arXiv 2410.08020, section 3.1, written as a gain: cov_X(x, x*)² / (σ²_X(x) + λ').
        explained = self._xp.sum(self.covariances * self.covariances, axis=0)
        return explained / (self.variances + self._noise_variance)

    def condition(self, index: int) -> None:
        """Observe the candidate at `index`."""
        xp, done = self._xp, self._choices
        # Rasmussen & Williams (2006), eq. 2.26, one observation at a time.
        with_chosen = self._candidates @ self._candidates[index]
        if done:
            with_chosen = with_chosen - self._factors[:done, index] @ self._factors[:done]
        scale = (float(self.variances[index]) + self._noise_variance) ** 0.5
        factor = with_chosen / scale
        explained = self.covariances[:, index] / scale
        self._factors[done] = factor
        self._choices = done + 1
        # Rounding can take a variance that should be zero to -1e-17.
        self.variances = xp.clip(self.variances - factor * factor, 0.0, None)
        self.covariances = self.covariances - explained[:, None] * factor[None, :]
        self.query_variance = max(self.query_variance - float(xp.sum(explained * explained)), 0.0)
