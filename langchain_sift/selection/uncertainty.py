"""Choose by uncertainty sampling: Lewis & Catlett (1994); "US" in arXiv 2410.08020."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any, Unpack

from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.greedy import Method, Selection, choose
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings

choose_by_uncertainty: Method = partial(choose, score=attrgetter("noisy_variances"))
"""Uncertainty sampling on checked arguments."""


def uncertainty_sampling(
    query_embeddings: Any, candidate_embeddings: Any, **options: Unpack[SelectionOptions]
) -> Selection:
    """Choose the candidates of the highest posterior variance σ²_X(x) + λ', whatever the query.

    The choice is diverse and ignores the query, which only the candidates reflect.
    Arguments, result and errors as in `select`.
    """
    settings = SelectionSettings(**options)
    return choose_by_uncertainty(as_matrices(query_embeddings, candidate_embeddings), settings)
