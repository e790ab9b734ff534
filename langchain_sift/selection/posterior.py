"""A Gaussian process over the candidates, conditioned on one choice at a time.

Axes: n candidates, d dimensions, m queries, k choices; every array may have one more axis in
front, over prompts that are worked on at once.
"""

from __future__ import annotations

from typing import Any

import array_api_compat


class Posterior:
    """What is known about the candidates and the queries after the choices so far.

    Nothing is inverted: each choice appends one column of a partial Cholesky factor, which is
    exact, in O(n (d + k)) time a choice and O(n k) memory.

    Attributes:
        noisy_variances: Posterior variance of an observation of each candidate,
            σ²_X(x) + λ', shape (n,).
        covariances: Posterior covariance of each query with each candidate, shape (m, n).
        query_variance: Sum of the posterior variances of the queries, shape ().
    """

    def __init__(
        self, xp: Any, queries: Any, candidates: Any, *, noise_variance: float, capacity: int
    ) -> None:
        """Start from the prior.

        Args:
            xp: The namespace of the arrays, as `array_api_compat.array_namespace` returns it.
            queries: Shape (m, d), or (b, m, d).
            candidates: Shape (n, d), or (b, n, d).
            noise_variance: λ', positive.
            capacity: The largest number of choices that will be observed.
        """
        *batch, count, _ = candidates.shape
        device = candidates.device
        self._xp = xp
        self._candidates = candidates
        self._prompts = (xp.arange(batch[0], device=device),) if batch else ()
        self._factors = xp.empty((*batch, capacity, count), dtype=candidates.dtype, device=device)
        self._choices = 0
        self._kernel = None
        if count <= 4 * capacity:
            # A good part of the kernel matrix will be asked for, row by row: all of it at once,
            # as one product of matrices, is cheaper, and no larger than four times the factors.
            self._kernel = candidates @ candidates.mT
        self.noisy_variances = xp.vecdot(candidates, candidates) + noise_variance
        self.covariances = queries @ candidates.mT
        self.query_variance = xp.sum(queries * queries, axis=(-2, -1))

    def gains(self) -> Any:
        """Return by how much each candidate would lower the queries' variance, shape (n,)."""
        # arXiv 2410.08020, section 3.1, written as a gain: cov_X(x, x*)² / (σ²_X(x) + λ').
        return _sum_of_squares(self.covariances) / self.noisy_variances

    def condition(self, index: Any) -> None:
        """Observe the candidate at `index`; with a batch, that of each prompt, shape (b,)."""
        done, prompts = self._choices, self._prompts
        # Rasmussen & Williams (2006), eq. 2.26, one observation at a time.
        factor = self._kernel_row(index)
        if done:
            earlier = self._factors[..., :done, :]
            factor = factor - _times(self._factors[(*prompts, slice(done), index)], earlier)
        precision = 1.0 / self.noisy_variances[(*prompts, index)] ** 0.5
        explained = self.covariances[(*prompts, slice(None), index)]
        if prompts:
            precision = precision[..., None]
        factor = factor * precision
        explained = explained * precision
        self._factors[..., done, :] = factor
        self._choices = done + 1
        self.noisy_variances -= factor * factor
        self.covariances -= explained[..., None] * factor[..., None, :]
        self.query_variance = self.query_variance - self._xp.vecdot(explained, explained)

    def _kernel_row(self, index: Any) -> Any:
        if self._kernel is not None:
            return self._kernel[(*self._prompts, index)]
        chosen = self._candidates[(*self._prompts, index)]
        return (self._candidates @ chosen[..., None])[..., 0]


def _times(vector: Any, matrix: Any) -> Any:
    """Return vector @ matrix, with or without an axis of prompts in front of both."""
    if vector.ndim == 1:
        return vector @ matrix
    return (vector[..., None, :] @ matrix)[..., 0, :]


def _sum_of_squares(covariances: Any) -> Any:
    """Return the sum over the queries, the last axis but one."""
    if covariances.shape[-2] == 1:  # the usual case, in half the time
        covariances = covariances[..., 0, :]
        return covariances * covariances
    return (covariances * covariances).sum(-2)


def irreducible_variance(query_embeddings: Any, candidate_embeddings: Any) -> float:
    """Return what would remain at the query if every candidate was known without noise.

    σ²_∞ of arXiv 2410.08020: the squared distance of the query from the span of the
    candidates, summed over the queries. No choice, however long, goes below it; zero where the
    candidates span the space. Directions in which they spread by less than a millionth count as
    unknown, as they are under any noise that is not as small.

    Args:
        query_embeddings: Shape (m, d).
        candidate_embeddings: Shape (n, d).
    """
    xp = array_api_compat.array_namespace(query_embeddings, candidate_embeddings)
    count, dimensions = candidate_embeddings.shape
    if count == 0:
        return float(xp.sum(query_embeddings * query_embeddings))
    # Of the two products with one span the smaller; ten times faster than a singular value
    # decomposition, and blind to directions of less than a millionth, which noise hides anyway.
    many = count > dimensions
    rows = candidate_embeddings
    values, vectors = xp.linalg.eigh(rows.mT @ rows if many else rows @ rows.mT)
    kept = values > 1e-13 * max(count, dimensions) * float(values[-1])
    basis = vectors[:, kept].mT
    if not many:
        basis = (basis @ rows) / values[kept][:, None] ** 0.5
    rest = query_embeddings - (query_embeddings @ basis.mT) @ basis
    return float(xp.sum(rest * rest))
