"""Choose by uncertainty sampling: Lewis & Catlett (1994); "US" in arXiv 2410.08020."""

from __future__ import annotations

from typing import Any

from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.greedy import Selection, choose


def uncertainty_sampling(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose the candidates of the highest posterior variance σ²_X(x), whatever the query.

    The choice is diverse and ignores the query, which only the candidates reflect.
    Arguments, result and errors as in `select`.
    """
    return choose(
        as_matrices(query_embeddings, candidate_embeddings),
        lambda posterior, _: posterior.noisy_variances,
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
