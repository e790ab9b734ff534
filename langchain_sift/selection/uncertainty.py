"""Choose by uncertainty sampling: Lewis & Catlett (1994); "US" in arXiv 2410.08020."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any

from langchain_sift.selection.arguments import as_matrices, check_arguments
from langchain_sift.selection.greedy import Method, Selection, choose

choose_by_uncertainty: Method = partial(choose, score=attrgetter("noisy_variances"))
"""Uncertainty sampling on checked arguments."""


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
    check_arguments(k, noise_variance, stopping_alpha)
    return choose_by_uncertainty(
        as_matrices(query_embeddings, candidate_embeddings),
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
