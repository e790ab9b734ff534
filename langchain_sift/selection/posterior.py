r"""Condition a Gaussian process on one choice at a time.

Rasmussen & Williams (2006), Algorithm 2.1 (page 19), for a set X of choices that grows. With
a kernel k(x, x') and the noise variance λ', which may differ between candidates:

    L Lᵀ = K_X + diag λ'                       line 2
    v(x) = L \ k_X(x)                          line 5
    σ²_X(x) = k(x, x) − v(x)ᵀ v(x)             line 6
    cov_X(x, x') = k(x, x') − v(x)ᵀ v(x')      the same for two points, eq. 2.24

A choice x_n appends one row to L and one entry to every v(x), and changes nothing else:

    L_nn = √(σ²_X(x_n) + λ')                   the new diagonal entry
    v_n(x) = cov_X(x_n, x) / L_nn              the new entry of v(x), by forward substitution

Over all candidates x, v_n is the n-th column of the partial Cholesky factor of K + diag λ',
pivoted by the choices. The posterior is exact, nothing is inverted, and a choice costs
O(n (d + k)) time and O(n) memory.

Axes: n candidates, d dimensions, m queries, k choices.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import LEAST_NOISE_VARIANCE, Matrices, as_numpy
from langchain_sift.selection.settings import Kernel, SelectionSettings

# Products of float32 embeddings of unit norm are exact to about 1e-7, which is small compared
# with a λ' of 0.01. The bound is a little lower because norms are rounded too.
_LEAST_NOISE_OF_FLOAT32 = 0.99e-2
_MOST_OF_FLOAT32 = 400.0  # error factor of the kernel "rbf" at a length scale of 0.05
_ALMOST_ZERO = 1e-9  # noise that hides only directions in which candidates hardly spread
_LARGEST_SOLVE = 2000


class Posterior:
    """The posterior of the candidates and the queries, given the choices so far.

    Attributes:
        choices: X, the rows of the candidates that were chosen.
        noisy_variances: σ²_X(x) + λ' of each candidate, shape (n,): the posterior variance of
            an observation of it.
        query_variance: σ²_X(x*), summed over the queries.
        tolerance: The relative difference up to which the gains of two candidates are equal.
    """

    def __init__(self, matrices: Matrices, settings: SelectionSettings, *, capacity: int) -> None:
        """Start from the prior.

        Args:
            matrices: The queries and the candidates.
            settings: The kernel and λ'.
            capacity: The largest number of choices.

        Raises:
            ArgumentError: If λ' is lost in the rounding of the candidates' variances, or has a
                wrong number of values.
        """
        matrices, noise, scale = _in_sufficient_precision(matrices, settings)
        xp, queries, candidates = matrices.xp, matrices.queries, matrices.candidates
        self._xp = xp
        self._kernel = settings.kernel_function
        self._noise_variance = noise
        self._matrices = matrices
        self._products = _small_product_matrix(matrices, self._kernel, capacity)
        self._v = xp.empty((capacity, len(candidates)), dtype=xp.float64, device=candidates.device)
        self.choices: list[int] = []
        # Rounding over many choices can take σ²_X(x) below zero by almost this λ'.
        self._must_clip = _least(noise) < 100.0 * LEAST_NOISE_VARIANCE * scale
        self.noisy_variances = _prior_variances(matrices, self._kernel) + noise
        # cov_X(x, x*), shape (m, n). The shape for one query is (n,): a number for v(x*) is faster
        # than an array of length one.
        squared_norms = xp.vecdot(queries, queries)
        self._covariances = _float64(
            xp,
            self._kernel.of_products(
                xp, queries @ candidates.mT, squared_norms[:, None], matrices.squared_norms
            ),
        )
        self._has_one_query = len(queries) == 1
        if self._has_one_query:
            self._covariances = self._covariances[0]
        variances = squared_norms if self._kernel.is_linear else xp.ones_like(squared_norms)
        self.query_variance = float(xp.sum(_float64(xp, variances)))
        self.tolerance = _gain_tolerance(matrices, self._kernel, scale / _least(noise))

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
        if self._products is None:
            products = self._matrices.candidates @ self._matrices.candidates[index]
        else:
            products = self._products[index]
        if not self._kernel.is_linear:
            norms = self._matrices.squared_norms
            products = self._kernel.of_products(self._xp, products, norms, norms[index])
        return _float64(self._xp, products)


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


def _in_sufficient_precision(
    matrices: Matrices, settings: SelectionSettings
) -> tuple[Matrices, Any, float]:
    """Return the matrices in a precision that suffices for λ', λ', and the scale of variances.

    Raises:
        ArgumentError: If no precision suffices, or λ' has a wrong number of values.
    """
    xp, candidates, kernel = matrices.xp, matrices.candidates, settings.kernel_function
    noise = _noise_of_each(matrices, settings.noise_variance)
    largest_norm = float(matrices.squared_norms.max()) if len(candidates) else 1.0
    scale = max(1.0, largest_norm) if kernel.is_linear else 1.0
    check_noise(_least(noise), scale)
    sufficient = _LEAST_NOISE_OF_FLOAT32 * max(1.0, largest_norm) * kernel.error_factor
    is_exact = _least(noise) >= sufficient and kernel.error_factor < _MOST_OF_FLOAT32
    if candidates.dtype == xp.float32 and not is_exact:
        candidates = _float64(xp, candidates)
        norms = xp.vecdot(candidates, candidates)
        matrices = Matrices(xp, _float64(xp, matrices.queries), candidates, norms)
    return matrices, noise, scale


def _noise_of_each(matrices: Matrices, noise_variance: Any) -> Any:
    """Return λ': a number for all candidates, or an array of shape (n,)."""
    if isinstance(noise_variance, float | int) or np.ndim(noise_variance) == 0:
        return noise_variance
    n = len(matrices.candidates)
    values = np.asarray(as_numpy(noise_variance), dtype=np.float64)
    if len(values) != n:
        raise ArgumentError(
            f"noise_variance must be a number, or one for each of the {n} candidates, got "
            f"{len(values)}"
        )
    return matrices.xp.asarray(values, device=matrices.candidates.device)


def _least(noise: Any) -> float:
    if isinstance(noise, float | int) or np.ndim(noise) == 0:
        return float(noise)
    return float(noise.min()) if len(noise) else 1.0


def _prior_variances(matrices: Matrices, kernel: Kernel) -> Any:
    """Return k(x, x) of every candidate, shape (n,)."""
    xp, norms = matrices.xp, matrices.squared_norms
    return _float64(xp, norms if kernel.is_linear else xp.ones_like(norms))


def _small_product_matrix(matrices: Matrices, kernel: Kernel, capacity: int) -> Any | None:
    """Compute all products xᵀx', shape (n, n), if most of the rows are likely to be used.

    One product of matrices is cheaper than one product for each choice, and it takes at most
    four times the memory of all v(x).
    """
    candidates = matrices.candidates
    if len(candidates) > 4 * capacity:
        return None
    products = candidates @ candidates.mT
    return _float64(matrices.xp, products) if kernel.is_linear else products


def _gain_tolerance(matrices: Matrices, kernel: Kernel, signal_to_noise: float) -> float:
    """Return the relative difference up to which the gains of two candidates are equal."""
    # The rounding of a product is relative to σ²_X(x) + λ', which may be as small as λ'.
    rounding = product_tolerance(matrices) * kernel.error_factor * max(1.0, signal_to_noise)
    return min(max(1e-9, rounding), 1e-3)


def product_tolerance(matrices: Matrices) -> float:
    """Return the relative difference up to which products with two candidates are equal.

    BLAS may sum the products of equal rows in different orders.
    """
    return 4.0 * float(matrices.xp.finfo(matrices.candidates.dtype).eps)


def irreducible_variance(
    query_embeddings: Any, candidate_embeddings: Any, kernel: Kernel | None = None
) -> float:
    """Compute the variance that remains at the query if every candidate is known without noise.

    σ²_∞ of arXiv 2410.08020, summed over the queries: in the space of the kernel, the squared
    distance of the query from the span of the candidates. No choice of candidates goes below it.
    It is zero if the candidates span the space. A direction in which the candidates spread by
    less than a millionth counts as unknown: noise hides it, unless λ' is as small.

    Args:
        query_embeddings: Shape (m, d).
        candidate_embeddings: Shape (n, d).
        kernel: The kernel. None means the linear one. With "rbf" and more than 2,000 candidates,
            the 2,000 of the largest covariance with a query count.
    """
    if kernel is None or kernel.is_linear:
        return _distance_from_span(query_embeddings, candidate_embeddings)
    return _variance_without_noise(query_embeddings, candidate_embeddings, kernel)


def _variance_without_noise(queries: Any, candidates: Any, kernel: Kernel) -> float:
    """Compute the posterior variance for a λ' of almost zero, by a dense solve."""
    xp = array_api_compat.array_namespace(queries, candidates)
    if len(candidates) == 0:
        return float(len(queries))
    left, right = (xp.vecdot(rows, rows) for rows in (queries, candidates))
    covariances = kernel.of_products(xp, queries @ candidates.mT, left[:, None], right)
    if len(candidates) > _LARGEST_SOLVE:
        near = xp.argsort(-xp.max(covariances, axis=0))[:_LARGEST_SOLVE]
        covariances, candidates, right = covariances[:, near], candidates[near], right[near]
    matrix = kernel.of_products(xp, candidates @ candidates.mT, right[:, None], right)
    matrix += _ALMOST_ZERO * xp.eye(len(candidates), dtype=matrix.dtype, device=matrix.device)
    # k(x*, x*) − k_X(x*)ᵀ (K_X + λ' I)⁻¹ k_X(x*): Rasmussen & Williams (2006), eq. 2.26.
    explained = xp.sum(covariances * xp.linalg.solve(matrix, covariances.mT).mT)
    return max(0.0, len(queries) - float(explained))


def _distance_from_span(query_embeddings: Any, candidate_embeddings: Any) -> float:
    """Compute the squared distance of the queries from the span of the candidates."""
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
