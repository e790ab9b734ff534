"""Choose nearest neighbours, once each or the nearest again and again."""

from __future__ import annotations

from typing import Any

from langchain_sift.selection.arguments import (
    Matrices,
    as_matrices,
    check_arguments,
    cosine_similarities,
)
from langchain_sift.selection.greedy import Selection, choose
from langchain_sift.selection.posterior import product_tolerance


def nearest_neighbors(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose the k candidates of the highest cosine with the query, nearest first.

    The choice of TTT-NN (Hardt & Sun, arXiv 2305.18466). For several queries the mean of the
    cosines counts. Arguments, result and errors as in `select`, except that `replace` has no
    effect: each neighbour is chosen once.
    """
    del replace
    return repeat_nearest(
        query_embeddings,
        candidate_embeddings,
        k=k,
        noise_variance=noise_variance,
        replace=False,
        stopping_alpha=stopping_alpha,
    )


def repeat_nearest(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = True,
    stopping_alpha: float | None = None,
) -> Selection:
    """Choose the nearest candidate k times: NN-F of arXiv 2410.08020.

    This is the failure mode of nearest neighbours in a store with k copies of one document.
    Arguments, result and errors as in `select`; without `replace` the choice is that of
    `nearest_neighbors`.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    return choose_nearest(
        as_matrices(query_embeddings, candidate_embeddings),
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )


def choose_nearest(
    matrices: Matrices,
    *,
    k: int,
    noise_variance: float,
    replace: bool,
    stopping_alpha: float | None,
) -> Selection:
    """Choose as `repeat_nearest` does, on checked arguments."""
    similarities = cosine_similarities(matrices)
    return choose(
        matrices,
        lambda _: similarities,
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
        tolerance=product_tolerance(matrices),
    )
