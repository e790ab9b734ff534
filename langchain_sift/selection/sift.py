"""SIFT: Hübotter, Bongni, Hakimi & Krause, "Efficiently Learning at Test-Time", 2410.08020."""

from __future__ import annotations

from typing import Any

from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.greedy import Selection, choose


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

    Exact, in O(k n (d + k)) time and O(n k) memory. Deterministic: of equal candidates the
    first is chosen. Products of float32 embeddings are float32, at half the time and memory of
    float64 and as exact as such embeddings are themselves; what adds up over the choices is
    float64, and so is everything where λ' is below 0.01.

    Args:
        query_embeddings: x*, shape (d,), or (m, d) for several queries, whose variances are
            summed. NumPy arrays or PyTorch tensors, on CPU or GPU.
        candidate_embeddings: Shape (n, d), of the same library and on the same device.
            The method assumes unit norm; vectors are taken as they are.
        k: How many to choose; without `replace` no more than n are.
        noise_variance: λ', at least 1e-12, of long vectors so much of the largest squared norm.
            As it falls to zero, only what is new about the query counts and nothing is chosen for
            being close; as it grows, the choice tends to the nearest neighbours (with `replace`,
            to the nearest one again and again). The right value belongs to the embedding: 0.01
            served the paper's.
        replace: Whether a candidate may be chosen again, as in the paper, where a repeat is
            one more gradient step on it. For retrieval a repeat is useless.
        stopping_alpha: α of the paper's adaptive rule: stop at the first n with
            σ_n > 1 / (α n), where σ_n² is the mean posterior variance of the queries. Larger
            values stop earlier; at least one candidate is chosen. None never stops.

    Returns:
        The choices and the variance that remained after each. Empty for no candidates.

    Raises:
        ArgumentError: If `k`, `noise_variance` or `stopping_alpha` is out of range.
        EmbeddingError: If a vector is NaN, infinite, zero, or of the wrong dimension.
    """
    return choose(
        as_matrices(query_embeddings, candidate_embeddings),
        lambda posterior, _: posterior.gains(),
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
