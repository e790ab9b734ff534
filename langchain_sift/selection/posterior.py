"""A Gaussian process over the candidates, conditioned on one choice at a time.

Axes: n candidates, d dimensions, m queries, k choices; every array may have one more axis in
front, over prompts that are worked on at once.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

# Products of float32 embeddings are wrong by about 1e-7, which must be little beside λ'.
_LEAST_NOISE_OF_FLOAT32 = 1e-2


class Posterior:
    """What is known about the candidates and the queries after the choices so far.

    Nothing is inverted: each choice appends one column of a partial Cholesky factor, which is
    exact, in O(n (d + k)) time a choice and O(n k) memory. Products of float32 embeddings are
    float32, as exact as those are; whatever adds up over the choices is float64.

    Attributes:
        noisy_variances: Posterior variance of an observation of each candidate,
            σ²_X(x) + λ', shape (n,).
        covariances: Posterior covariance of each query with each candidate, shape (m, n).
        rounding: By how much, relatively, the gains of equal candidates may differ.
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
        self._xp = xp
        if noise_variance < _LEAST_NOISE_OF_FLOAT32:
            queries, candidates = self._float64(queries), self._float64(candidates)
        # The rounding of a product, beside σ²_X(x) + λ', which may be as small as λ'.
        product = 4.0 * float(xp.finfo(candidates.dtype).eps)
        self.rounding = max(1e-9, product / min(1.0, noise_variance))
        *batch, count, _ = candidates.shape
        device = candidates.device
        self._candidates = candidates
        self._prompts = (xp.arange(batch[0], device=device),) if batch else ()
        self._factors = xp.empty((*batch, capacity, count), dtype=xp.float64, device=device)
        shape = (*batch, capacity, queries.shape[-2])
        self._explained = xp.empty(shape, dtype=xp.float64, device=device)
        self._choices = 0
        self._kernel = None
        if count <= 4 * capacity:
            # A good part of the kernel matrix will be asked for, row by row: all of it at once,
            # as one product of matrices, is cheaper, and no larger than four times the factors.
            self._kernel = self._float64(candidates @ candidates.mT)
        self.noisy_variances = self._float64(xp.vecdot(candidates, candidates)) + noise_variance
        self.covariances = self._float64(queries @ candidates.mT)
        self._prior_variance = self._float64(xp.vecdot(queries, queries)).sum(-1)
        self._scratch = xp.empty_like(self.covariances)

    def gains(self) -> Any:
        """Return by how much each candidate would lower the queries' variance, shape (n,).

        The array is overwritten by what is called next.
        """
        # arXiv 2410.08020, section 3.1, written as a gain: cov_X(x, x*)² / (σ²_X(x) + λ').
        xp = self._xp
        squares = xp.multiply(self.covariances, self.covariances, out=self._scratch)
        several = squares.shape[-2] > 1
        gains = xp.sum(squares, axis=-2) if several else squares[..., 0, :]
        gains /= self.noisy_variances
        return gains

    def condition(self, index: Any) -> None:
        """Observe the candidate at `index`; with a batch, that of each prompt, shape (b,)."""
        xp, done, at = self._xp, self._choices, (*self._prompts, ..., index)
        # Rasmussen & Williams (2006), eq. 2.26, one observation at a time.
        factor = self._kernel_row(index)
        if done:
            earlier = self._factors[..., :done, :]
            factor = factor - _times(earlier[at], earlier)
        variance = self.noisy_variances[at]
        # A NumPy number's own power takes ten times as long as a plain number's.
        precision = (variance[..., None] if self._prompts else float(variance)) ** -0.5
        explained = self.covariances[at] * precision
        factor = xp.multiply(factor, precision, out=self._factors[..., done, :])
        self._explained[..., done, :] = explained
        self._choices = done + 1
        products = xp.multiply(factor, factor, out=self._scratch[..., 0, :])
        self.noisy_variances -= products
        products = xp.multiply(explained[..., None], factor[..., None, :], out=self._scratch)
        self.covariances -= products

    def query_variances(self) -> Any:
        """Return the sum of the queries' variances at first and after each choice, (1 + k,)."""
        explained = self._explained[..., : self._choices, :]
        first = self._prior_variance[..., None]
        left = first - (explained * explained).sum(-1).cumsum(-1)
        return self._xp.concat([first, left], axis=-1)

    def _kernel_row(self, index: Any) -> Any:
        if self._kernel is not None:
            return self._kernel[(*self._prompts, index)]
        chosen = self._candidates[(*self._prompts, index)]
        return self._float64((self._candidates @ chosen[..., None])[..., 0])

    def _float64(self, array: Any) -> Any:
        return self._xp.astype(array, self._xp.float64, copy=False)


def _times(vector: Any, matrix: Any) -> Any:
    """Return vector @ matrix, with or without an axis of prompts in front of both."""
    if vector.ndim == 1:
        return vector @ matrix
    return (vector[..., None, :] @ matrix)[..., 0, :]


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
