"""Choose by maximal marginal relevance: Carbonell & Goldstein (1998), SIGIR, p. 335."""

from __future__ import annotations

from numbers import Real
from typing import Any, Unpack

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import (
    Matrices,
    as_matrices,
    cosine_similarities,
    normalize_rows,
)
from langchain_sift.selection.greedy import Selection, choose
from langchain_sift.selection.posterior import Posterior, product_tolerance
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings


def mmr(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    lambda_mult: float = 0.5,
    **options: Unpack[SelectionOptions],
) -> Selection:
    """Choose candidates that are similar to the query and unlike the choices before them.

    Each choice has the highest λ cos(x, x*) − (1 − λ) max cos(x, chosen).

    Args:
        query_embeddings: As in `select`; for several queries the mean of the cosines counts.
        candidate_embeddings: As in `select`.
        lambda_mult: λ, on LangChain's scale: from 0 (novelty alone) to 1 (nearest neighbours).
        **options: As in `select`. The kernel and λ' change the reported variances alone.

    Returns:
        As in `select`.

    Raises:
        ArgumentError: If an argument is out of range.
        EmbeddingError: As in `select`.
    """
    check_lambda_mult(lambda_mult)
    settings = SelectionSettings(**options)
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    return choose_by_relevance(matrices, settings, lambda_mult=lambda_mult)


def choose_by_relevance(
    matrices: Matrices, settings: SelectionSettings, *, lambda_mult: float = 0.5
) -> Selection:
    """Choose as `mmr` does, on checked arguments."""
    xp = matrices.xp
    similarities = cosine_similarities(matrices)
    units = normalize_rows(xp, matrices.candidates)
    redundancies = xp.full_like(similarities, -1.0)  # max cos(x, chosen); -1 with nothing chosen

    def score(posterior: Posterior) -> Any:
        nonlocal redundancies
        if not posterior.choices:
            return similarities
        redundancies = xp.maximum(redundancies, units @ units[posterior.choices[-1]])
        return lambda_mult * similarities - (1.0 - lambda_mult) * redundancies

    return choose(matrices, settings, score=score, tolerance=product_tolerance(matrices))


def check_lambda_mult(lambda_mult: Any) -> None:
    """Check that the trade-off is between 0 and 1.

    Raises:
        ArgumentError: If it is not.
    """
    if not (isinstance(lambda_mult, Real) and 0.0 <= float(lambda_mult) <= 1.0):
        raise ArgumentError(f"lambda_mult must be from 0 to 1, got {lambda_mult!r}")
