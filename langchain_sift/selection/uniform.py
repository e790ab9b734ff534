"""Choose uniformly at random: the baseline of all methods."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.greedy import Selection, choose
from langchain_sift.selection.settings import SelectionOptions, SelectionSettings


def random(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    seed: int = 0,
    **options: Unpack[SelectionOptions],
) -> Selection:
    """Choose uniformly at random; the same `seed` chooses the same rows.

    Arguments, result and errors as in `select`.
    """
    settings = SelectionSettings(**options)
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    xp, candidates = matrices.xp, matrices.candidates
    rng = np.random.default_rng(seed)
    return choose(
        matrices,
        settings,
        score=lambda _: xp.asarray(rng.random(len(candidates)), device=candidates.device),
    )
