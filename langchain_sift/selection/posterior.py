"""A Gaussian process over the candidates, conditioned on one choice at a time.

Axes: n candidates, d dimensions, m queries, k choices.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from langchain_sift.selection.arguments import LEAST_NOISE_VARIANCE, check_noise

# Products of float32 embeddings of unit norm are wrong by about 1e-7, which must be little beside
# λ'. A little less than 0.01: norms have their rounding too.
_LEAST_NOISE_OF_FLOAT32 = 0.99e-2


class Posterior:
    """What is known about the candidates and the queries after the choices so far.

    Nothing is inverted: each choice appends one column of a partial Cholesky factor, which is
    exact, in O(n (d + k)) time a choice and O(n k) memory. Of a few hundred candidates a choice
    takes microseconds, as calling NumPy does: arrays are written into, and not made.

    Attributes:
        noisy_variances: Posterior variance of an observation of each candidate,
            σ²_X(x) + λ', shape (n,).
        query_variance: Sum of the posterior variances of the queries.
        rounding: By how much, relatively, the gains of equal candidates may differ.
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
        queries, candidates, variances = prior(xp, queries, candidates, noise_variance)
        count = candidates.shape[0]
        largest = float(variances.max()) if count else 1.0
        self._xp = xp
        self._noise_variance = noise_variance
        self._candidates = candidates
        self._kernel = kernel_of_few(xp, candidates, capacity)
        self.rounding = rounding(xp, candidates, largest, noise_variance)
        self.noisy_variances = variances + noise_variance
        # Whether the rounding of many choices may come to as much as λ'.
        self._is_coarse = noise_variance < 100.0 * LEAST_NOISE_VARIANCE * largest
        self._covariances = _float64(xp, queries @ candidates.mT)
        self._is_one = len(queries) == 1  # the usual case, in half the time
        self.query_variance = float(xp.sum(_float64(xp, xp.vecdot(queries, queries))))
        device = candidates.device
        self._factors = xp.empty((capacity, count), dtype=xp.float64, device=device)
        self._scratch = xp.empty(count, dtype=xp.float64, device=device)
        self._choices = 0

    def gains(self) -> Any:
        """Return by how much each candidate would lower the queries' variance, shape (n,).

        The array is overwritten by what is called next.
        """
        # arXiv 2410.08020, section 3.1, written as a gain: cov_X(x, x*)² / (σ²_X(x) + λ').
        gains, covariances = self._scratch, self._covariances
        if self._is_one:
            covariances = covariances[0]
            self._xp.multiply(covariances, covariances, out=gains)
        else:
            gains[:] = (covariances * covariances).sum(0)
        gains /= self.noisy_variances
        return gains

    def condition(self, index: int) -> None:
        """Observe the candidate at `index`."""
        multiply, done, products = self._xp.multiply, self._choices, self._scratch
        factor, covariances = self._factors[done], self._covariances
        # Rasmussen & Williams (2006), eq. 2.26, one observation at a time.
        row = self._kernel_row(index)
        if done:
            earlier = self._factors[:done]
            row = row - earlier[:, index] @ earlier
        precision = float(self.noisy_variances[index]) ** -0.5
        multiply(row, precision, out=factor)
        self._choices = done + 1
        self.noisy_variances -= multiply(factor, factor, out=products)
        if self._is_coarse:
            self.noisy_variances = self._xp.clip(self.noisy_variances, min=self._noise_variance)
        if self._is_one:
            covariances = covariances[0]
            explained = float(covariances[index]) * precision
            covariances -= multiply(factor, explained, out=products)
            self.query_variance -= explained * explained
        else:
            share = covariances[:, index] * precision
            covariances -= share[:, None] * factor
            self.query_variance -= float(share @ share)

    def _kernel_row(self, index: int) -> Any:
        if self._kernel is not None:
            return self._kernel[index]
        return _float64(self._xp, self._candidates @ self._candidates[index])


def prior(xp: Any, queries: Any, candidates: Any, noise_variance: float) -> tuple[Any, Any, Any]:
    """Return both in a precision that suffices for λ', and the candidates' variances in float64.

    Raises:
        ArgumentError: If none suffices.
    """
    variances = xp.vecdot(candidates, candidates)
    largest = max(1.0, float(variances.max())) if candidates.shape[-2] else 1.0
    check_noise(noise_variance, largest)
    if candidates.dtype == xp.float32 and noise_variance < _LEAST_NOISE_OF_FLOAT32 * largest:
        queries, candidates = _float64(xp, queries), _float64(xp, candidates)
        variances = xp.vecdot(candidates, candidates)
    return queries, candidates, _float64(xp, variances)


def kernel_of_few(xp: Any, candidates: Any, capacity: int) -> Any | None:
    """Return the kernel matrix, shape (n, n), of so few that much of it will be asked for.

    All of it at once, as one product of matrices, is cheaper than row by row; and where it is
    made it is no larger than four times the factors.
    """
    few = candidates.shape[-2] <= 4 * capacity
    return _float64(xp, candidates @ candidates.mT) if few else None


def rounding(xp: Any, candidates: Any, largest: float, noise_variance: float) -> float:
    """Return by how much, relatively, the gains of equal candidates may differ.

    Args:
        xp: Their namespace.
        candidates: For their type.
        largest: The largest variance of one.
        noise_variance: λ'.
    """
    # BLAS may sum equal rows in different orders: the rounding of a product, beside σ²_X(x) + λ',
    # which may be as small as λ'.
    return min(
        max(1e-9, product_rounding(xp, candidates) * max(1.0, largest / noise_variance)), 1e-3
    )


def product_rounding(xp: Any, candidates: Any) -> float:
    """Return by how much, relatively, products with equal candidates may differ."""
    return 4.0 * float(xp.finfo(candidates.dtype).eps)


def _float64(xp: Any, array: Any) -> Any:
    return xp.astype(array, xp.float64, copy=False)


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
