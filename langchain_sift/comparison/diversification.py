"""Choose with the strategies of pyversity, a library for diverse retrieval, next to our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np

from langchain_sift.errors import ArgumentError
from langchain_sift.selection import Selection, Selector
from langchain_sift.selection.arguments import as_matrices, as_numpy, cosine_similarities
from langchain_sift.selection.greedy import choose
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings


def diversify(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    strategy: str,
    diversity: float = 0.5,
    **options: Unpack[SelectionOptions],
) -> Selection:
    """Choose with a strategy of pyversity, from the candidates and their cosines with the query.

    Args:
        query_embeddings: As in `select`; for several queries the mean of the cosines counts.
        candidate_embeddings: As in `select`.
        strategy: "mmr", "msd", "dpp", "cover" or "ssd"; pyversity's documentation describes them.
        diversity: From 0 (nearest neighbours) to 1 (diversity alone).
        **options: As in `select`. No document is chosen twice, and the kernel and λ' change the
            reported variances alone.

    Returns:
        As in `select`.
    """
    import pyversity  # noqa: PLC0415 - a peer, which few users have

    settings = SelectionSettings(**options)
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    scores = as_numpy(cosine_similarities(matrices))
    chosen = pyversity.diversify(
        as_numpy(matrices.candidates), scores, settings.k, strategy, diversity
    ).indices
    places = np.zeros(len(scores))
    places[chosen] = np.arange(len(chosen), 0, -1)
    settings = replace(settings, k=max(1, len(chosen)), replace=False)
    return choose(matrices, settings, score=lambda _: places, tolerance=0.0)


DIVERSIFIERS: Mapping[str, Selector] = MappingProxyType(
    {
        f"pyversity-{strategy}": partial(diversify, strategy=strategy)
        for strategy in ("mmr", "msd", "dpp", "cover", "ssd")
    }
)
"""The strategies by their names in `compare` and on the command line."""


def check_installed(selection: str) -> None:
    """Check that pyversity is installed, if a selection needs it.

    Raises:
        ArgumentError: If it is not.
    """
    if selection in DIVERSIFIERS and find_spec("pyversity") is None:
        raise ArgumentError(f"{selection!r} needs the package pyversity: pip install pyversity")
