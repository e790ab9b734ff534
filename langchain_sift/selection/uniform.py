"""Choose uniformly at random: the baseline of all methods."""

from __future__ import annotations

from typing import Any

import numpy as np

from langchain_sift.selection.arguments import as_matrices, check_arguments
from langchain_sift.selection.greedy import Selection, choose


def random(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
    seed: int = 0,
) -> Selection:
    """Choose uniformly at random; the same `seed` chooses the same rows.

    Arguments, result and errors as in `select`.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    matrices = as_matrices(query_embeddings, candidate_embeddings)
    xp, candidates = matrices.xp, matrices.candidates
    rng = np.random.default_rng(seed)
    return choose(
        matrices,
        lambda _: xp.asarray(rng.random(len(candidates)), device=candidates.device),
        k=k,
        noise_variance=noise_variance,
        replace=replace,
        stopping_alpha=stopping_alpha,
    )
