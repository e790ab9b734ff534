"""Choose nearest neighbours, once each or the nearest again and again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from langchain_sift.selection.arguments import Matrices, as_matrices, cosine_similarities
from langchain_sift.selection.greedy import Selection, choose
from langchain_sift.selection.posterior import product_tolerance
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings


def nearest_neighbors(
    query_embeddings: Any, candidate_embeddings: Any, **options: Unpack[SelectionOptions]
) -> Selection:
    """Choose the k candidates of the highest cosine with the query, nearest first.

    The choice of TTT-NN (Hardt & Sun, arXiv 2305.18466). For several queries the mean of the
    cosines counts. Arguments, result and errors as in `select`, except that `replace` has no
    effect: each neighbour is chosen once. The kernel and λ' change the reported variances alone.
    """
    settings = replace(SelectionSettings(**options), replace=False)
    return choose_nearest(as_matrices(query_embeddings, candidate_embeddings), settings)


def repeat_nearest(
    query_embeddings: Any, candidate_embeddings: Any, **options: Unpack[SelectionOptions]
) -> Selection:
    """Choose the nearest candidate k times: NN-F of arXiv 2410.08020.

    This is the failure mode of nearest neighbours in a store with k copies of one document.
    Arguments, result and errors as in `select`, except that `replace` is True by default; without
    it the choice is that of `nearest_neighbors`.
    """
    options.setdefault("replace", True)
    settings = SelectionSettings(**options)
    return choose_nearest(as_matrices(query_embeddings, candidate_embeddings), settings)


def choose_nearest(matrices: Matrices, settings: SelectionSettings) -> Selection:
    """Choose as `repeat_nearest` does, on checked arguments."""
    similarities = cosine_similarities(matrices)
    return choose(
        matrices,
        settings,
        score=lambda _: similarities,
        tolerance=product_tolerance(matrices),
    )
