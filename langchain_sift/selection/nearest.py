"""Nearest neighbours, and the failure mode that they share with it."""

from __future__ import annotations

from typing import Any

from langchain_sift.selection.arguments import as_matrices, cosine_similarities
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

    The choice of TTT-NN (Hardt & Sun, arXiv 2305.18466). `replace` changes nothing: no
    neighbour comes twice. Arguments, result and errors as in `select`; for several queries
    the mean of the cosines counts.
    """
    del replace
    return _nearest(
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
    """Choose the nearest candidate k times: NN-F of arXiv 2410.08020, a warning.

    What nearest neighbours do in a store that holds the same document k times. Without
    `replace` it is chosen once and then its next neighbours. Otherwise as `select`.
    """
    return _nearest(
        query_embeddings,
        candidate_embeddings,
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )


def _nearest(query_embeddings: Any, candidate_embeddings: Any, **arguments: Any) -> Selection:
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    similarities = cosine_similarities(matrices)
    tolerance = product_tolerance(matrices)
    return choose(matrices, lambda *_: similarities, tolerance=tolerance, **arguments)
