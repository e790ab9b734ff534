"""The specification: the posterior variance in one dense formula.

Slow and plain on purpose. Nothing in the package calls it; the tests hold every other file of
this folder to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def posterior_variance(
    query_embeddings: npt.NDArray[Any],
    chosen_embeddings: npt.NDArray[Any],
    *,
    noise_variance: float,
) -> float:
    """Return the posterior variance at the queries after the chosen documents were observed.

    σ²_X(x*) = k(x*, x*) − k_X(x*)ᵀ (K_X + λ' I)⁻¹ k_X(x*) with k(x, x') = φ(x)ᵀφ(x'):
    Rasmussen & Williams (2006), eq. 2.26; arXiv 2410.08020, section 3.

    Args:
        query_embeddings: Shape (d,) or (m, d).
        chosen_embeddings: Shape (n, d), one row per observation; a row may occur again.
        noise_variance: λ', positive.

    Returns:
        The sum over the m queries.
    """
    queries = np.atleast_2d(np.asarray(query_embeddings, dtype=np.float64))
    chosen = np.asarray(chosen_embeddings, dtype=np.float64)
    kernel_matrix = chosen @ chosen.T + noise_variance * np.eye(len(chosen))
    covariances = chosen @ queries.T
    explained = np.sum(covariances * np.linalg.solve(kernel_matrix, covariances))
    return float(np.sum(queries * queries) - explained)
