r"""Condition a Gaussian process on one choice at a time.

Rasmussen & Williams (2006), Algorithm 2.1 (page 19), for a set X of choices that grows. With
the kernel k(x, x') = φ(x)ᵀφ(x') and the noise variance λ':

    L Lᵀ = K_X + λ' I                          line 2
    v(x) = L \ k_X(x)                          line 5
    σ²_X(x) = k(x, x) − v(x)ᵀ v(x)             line 6
    cov_X(x, x') = k(x, x') − v(x)ᵀ v(x')      the same for two points, eq. 2.24

A choice x_n appends one row to L and one entry to every v(x), and changes nothing else:

    L_nn = √(σ²_X(x_n) + λ')                   the new diagonal entry
    v_n(x) = cov_X(x_n, x) / L_nn              the new entry of v(x), by forward substitution

Over all candidates x, v_n is the n-th column of the partial Cholesky factor of K + λ' I, pivoted
by the choices. The posterior is exact, nothing is inverted, and a choice costs O(n (d + k)) time
and O(n) memory.

Axes: n candidates, d dimensions, m queries, k choices.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import LEAST_NOISE_VARIANCE, Matrices

# Products of float32 embeddings of unit norm are exact to about 1e-7, which is small compared
# with a λ' of 0.01. The bound is a little lower because norms are rounded too.
_LEAST_NOISE_OF_FLOAT32 = 0.99e-2


class Posterior:
    """The posterior of the candidates and the queries, given the choices so far.

    Attributes:
        choices: X, the rows of the candidates that were chosen.
        noisy_variances: σ²_X(x) + λ' of each candidate, shape (n,): the posterior variance of
            an observation of it.
        query_variance: σ²_X(x*), summed over the queries.
        tolerance: The relative difference up to which the gains of two candidates are equal.
    """

    def __init__(self, matrices: Matrices, *, noise_variance: float, capacity: int) -> None:
        """Start from the prior.

        Args:
            matrices: The queries and the candidates.
            noise_variance: λ', positive.
            capacity: The largest number of choices.

        Raises:
            ArgumentError: If λ' is lost in the rounding of the candidates' variances.
        """
        matrices, largest_variance = _in_sufficient_precision(matrices, noise_variance)
        xp, queries, candidates = matrices.xp, matrices.queries, matrices.candidates
        self._xp = xp
        self._noise_variance = noise_variance
        self._candidates = candidates
        self._kernel_matrix = _small_kernel_matrix(xp, candidates, capacity)
        self._v = xp.empty((capacity, len(candidates)), dtype=xp.float64, device=candidates.device)
        self.choices: list[int] = []
        # Rounding over many choices can take σ²_X(x) below zero by almost this λ'.
        self._must_clip = noise_variance < 100.0 * LEAST_NOISE_VARIANCE * largest_variance
        self.noisy_variances = _float64(xp, matrices.squared_norms) + noise_variance
        # cov_X(x, x*), shape (m, n). The shape for one query is (n,): a number for v(x*) is faster
        # than an array of length one.
        self._covariances = _float64(xp, queries @ candidates.mT)
        self._has_one_query = len(queries) == 1
        if self._has_one_query:
            self._covariances = self._covariances[0]
        self.query_variance = float(xp.sum(_float64(xp, xp.vecdot(queries, queries))))
        self.tolerance = _gain_tolerance(matrices, largest_variance, noise_variance)

    def gains(self) -> Any:
        """Compute how much each candidate would reduce the queries' variance, shape (n,)."""
        # σ²_X(x*) − σ²_{X ∪ {x}}(x*) = cov_X(x, x*)² / (σ²_X(x) + λ'), by eq. 2.24 for X ∪ {x}.
        # The x of the largest gain is SIFT's choice: arXiv 2410.08020, section 3.1.
        squares = self._covariances * self._covariances
        return (squares if self._has_one_query else squares.sum(0)) / self.noisy_variances

    def condition(self, index: int) -> None:
        """Add the candidate at `index` to the choices X."""
        n, v = len(self.choices), self._v
        # cov_X(x_n, x) = k(x_n, x) − v(x_n)ᵀ v(x): Rasmussen & Williams (2006), eq. 2.24.
        covariances = self._kernel_row(index)
        if n:
            covariances = covariances - v[:n, index] @ v[:n]
        # 1 / L_nn, of L Lᵀ = K_X + λ' I: Algorithm 2.1, line 2.
        inverse_pivot = float(self.noisy_variances[index]) ** -0.5
        # v_n(x) = cov_X(x_n, x) / L_nn: line 5.
        v_n = self._xp.multiply(covariances, inverse_pivot, out=v[n])
        # σ²_X(x) = k(x, x) − v(x)ᵀ v(x): line 6.
        self.noisy_variances -= v_n * v_n
        if self._must_clip:
            self.noisy_variances = self._xp.clip(self.noisy_variances, min=self._noise_variance)
        # The same for the queries: v_n(x*) by line 5, σ²_X(x*) by line 6, cov_X(x, x*) by eq. 2.24.
        if self._has_one_query:
            v_n_query = float(self._covariances[index]) * inverse_pivot
            self.query_variance -= v_n_query**2
            self._covariances -= v_n_query * v_n
        else:
            v_n_queries = self._covariances[:, index] * inverse_pivot
            self.query_variance -= float(v_n_queries @ v_n_queries)
            self._covariances -= v_n_queries[:, None] * v_n
        self.choices.append(index)

    def _kernel_row(self, index: int) -> Any:
        """Compute k(x_index, x) of every candidate x, shape (n,)."""
        if self._kernel_matrix is not None:
            return self._kernel_matrix[index]
        return _float64(self._xp, self._candidates @ self._candidates[index])


def check_noise(noise_variance: float, largest_variance: float) -> None:
    """Check that λ' is not lost in the rounding of the largest prior variance.

    Raises:
        ArgumentError: If it is.
    """
    if noise_variance < 0.99 * LEAST_NOISE_VARIANCE * largest_variance:
        raise ArgumentError(
            f"noise_variance must be at least {LEAST_NOISE_VARIANCE} of the largest squared norm "
            f"of an embedding, which is {largest_variance:.3g}, got {noise_variance!r}: "
            "a smaller value is lost in the rounding of float64"
        )


def _in_sufficient_precision(matrices: Matrices, noise_variance: float) -> tuple[Matrices, float]:
    """Return the matrices in a precision that suffices for λ', and the largest prior variance.

    Raises:
        ArgumentError: If no precision suffices.
    """
    xp, candidates = matrices.xp, matrices.candidates
    largest_variance = float(matrices.squared_norms.max()) if len(candidates) else 1.0
    scale = max(1.0, largest_variance)
    check_noise(noise_variance, scale)
    if candidates.dtype == xp.float32 and noise_variance < _LEAST_NOISE_OF_FLOAT32 * scale:
        candidates = _float64(xp, candidates)
        variances = xp.vecdot(candidates, candidates)
        matrices = Matrices(xp, _float64(xp, matrices.queries), candidates, variances)
        largest_variance = float(variances.max())
    return matrices, largest_variance


def _small_kernel_matrix(xp: Any, candidates: Any, capacity: int) -> Any | None:
    """Compute the kernel matrix K, shape (n, n), if most of its rows are likely to be used.

    One product of matrices is cheaper than one product for each choice, and K takes at most
    four times the memory of the v.
    """
    if len(candidates) > 4 * capacity:
        return None
    return _float64(xp, candidates @ candidates.mT)


def _gain_tolerance(matrices: Matrices, largest_variance: float, noise_variance: float) -> float:
    """Return the relative difference up to which the gains of two candidates are equal."""
    # The rounding of a product is relative to σ²_X(x) + λ', which may be as small as λ'.
    rounding = product_tolerance(matrices) * max(1.0, largest_variance / noise_variance)
    return min(max(1e-9, rounding), 1e-3)


def product_tolerance(matrices: Matrices) -> float:
    """Return the relative difference up to which products with two candidates are equal.

    BLAS may sum the products of equal rows in different orders.
    """
    return 4.0 * float(matrices.xp.finfo(matrices.candidates.dtype).eps)


def irreducible_variance(query_embeddings: Any, candidate_embeddings: Any) -> float:
    """Compute the variance that remains at the query if every candidate is known without noise.

    σ²_∞ of arXiv 2410.08020: the squared distance of the query from the span of the
    candidates, summed over the queries. No choice of candidates goes below it. It is zero if the
    candidates span the space. A direction in which the candidates spread by less than a millionth
    counts as unknown: noise hides it, unless λ' is as small.

    Args:
        query_embeddings: Shape (m, d).
        candidate_embeddings: Shape (n, d).
    """
    xp = array_api_compat.array_namespace(query_embeddings, candidate_embeddings)
    n, d = candidate_embeddings.shape
    if n == 0:
        return float(xp.sum(query_embeddings * query_embeddings))
    # X Xᵀ and Xᵀ X have the same eigenvalues; take the smaller matrix. Ten times faster than a
    # singular value decomposition, and blind only to the directions that are left out above.
    candidates = candidate_embeddings
    products = candidates.mT @ candidates if n > d else candidates @ candidates.mT
    eigenvalues, eigenvectors = xp.linalg.eigh(products)
    kept = eigenvalues > 1e-13 * max(n, d) * float(eigenvalues[-1])
    basis = eigenvectors[:, kept].mT
    if n <= d:
        basis = (basis @ candidates) / eigenvalues[kept][:, None] ** 0.5
    residuals = query_embeddings - (query_embeddings @ basis.mT) @ basis
    return float(xp.sum(residuals * residuals))


def _float64(xp: Any, array: Any) -> Any:
    return xp.astype(array, xp.float64, copy=False)
