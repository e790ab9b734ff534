"""Choose with SIFT: Hübotter, Bongni, Hakimi & Krause, arXiv 2410.08020.

Read on in `greedy.py`, the loop over the choices (Algorithm 1 of the paper), and in
`posterior.py`, the update after each (Rasmussen & Williams (2006), Algorithm 2.1).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain_sift.selection.arguments import as_matrices, check_arguments
from langchain_sift.selection.greedy import Method, Selection, choose
from langchain_sift.selection.posterior import Posterior

# arXiv 2410.08020, section 3.1: x_{n+1} = argmin over x of σ²_{X_n ∪ {x}}(x*), which is the argmax
# of the gains.
choose_by_gain: Method = partial(choose, score=Posterior.gains)
"""SIFT on checked arguments."""


def select(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose greedily the candidates that most reduce the posterior variance at the query.

    The choice is exact, in O(k n (d + k)) time and O(n k) memory. It is deterministic: of equal
    candidates the first is chosen. Products of float32 embeddings are computed in float32, at
    half the time and memory of float64 and as exact as such embeddings are. All sums over the
    choices are float64, and so are the products if λ' is below 0.01.

    Args:
        query_embeddings: x*, shape (d,), or (m, d) for several queries, whose variances are
            summed. NumPy arrays or PyTorch tensors, on CPU or GPU.
        candidate_embeddings: Shape (n, d), of the same library and on the same device.
            The method assumes unit norm; the vectors are not normalised.
        k: Number of candidates to choose; without `replace` at most n.
        noise_variance: λ', at least 1e-12, and at least 1e-12 of the largest squared norm. As it
            falls to zero, the choice depends only on how much each candidate adds to what the
            others say about the query. As it grows, the choice tends to the nearest neighbours
            (with `replace`, to the nearest one again and again). The best value depends on the
            embedding; the paper uses 0.01.
        replace: If True, a candidate may be chosen again, as in the paper, where a repeat is
            one more gradient step on it. For retrieval a repeat is useless.
        stopping_alpha: α of the paper's adaptive rule: stop at the first n with
            σ_n > 1 / (α n), where σ_n² is the mean posterior variance of the queries. Larger
            values stop earlier; at least one candidate is chosen. None means all k.

    Returns:
        The choices and the variance that remains after each. Empty without candidates.

    Raises:
        ArgumentError: If `k`, `noise_variance` or `stopping_alpha` is out of range.
        EmbeddingError: If a vector is NaN, infinite, zero, or of the wrong dimension.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    return choose_by_gain(
        as_matrices(query_embeddings, candidate_embeddings),
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
