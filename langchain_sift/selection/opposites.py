"""Choose with SIFT for retrieval: documents that point away from the query come last.

Axes: n candidates, m query vectors, d dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from langchain_sift.selection.arguments import Array, Matrices
from langchain_sift.selection.greedy import Selection
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.selection.sift import choose_by_gain

_ROUNDING = 1e-6  # of cosines: a store may hold its vectors in float32
NO_INFORMATION = 1e12
"""λ' of an observation that leaves the posterior as it is."""


def choose_for_retrieval(matrices: Matrices, settings: SelectionSettings) -> Selection:
    """Choose as `select` does; candidates that point away from all query vectors come last.

    With the linear kernel, the gain of the cosine -0.6 is that of 0.6: a quantity is known if its
    opposite is. The opposite of a vector is not the opposite of a text. Such a candidate counts as
    an observation of pure noise, and the nearest of them comes first. With the kernel "rbf" its
    gain is small anyway. With `replace` the choice is that of `select`, as in the paper.

    Args:
        matrices: The query vectors and the candidates, NumPy arrays of unit norm.
        settings: The settings of the selection.
    """
    if settings.costs is None:
        selection = choose_by_gain(matrices, settings)
        chosen = matrices.candidates[selection.indices]
        if not opposite_penalties(matrices.queries, chosen, settings).any():
            # What is not chosen has no influence.
            return selection
    penalties = opposite_penalties(matrices.queries, matrices.candidates, settings)
    is_opposite = penalties < 0.0
    if not is_opposite.any():
        return choose_by_gain(matrices, settings)
    noise = np.where(is_opposite, NO_INFORMATION, settings.noise_variance)
    return choose_by_gain(matrices, replace(settings, noise_variance=noise), penalties=penalties)


def opposite_penalties(queries: Array, candidates: Array, settings: SelectionSettings) -> Array:
    """Return the cosines of `opposite_cosines` if the settings put such candidates last, else 0."""
    if settings.replace or not settings.kernel_function.is_linear:
        return np.zeros(len(candidates))
    return opposite_cosines(queries, candidates)


def opposite_cosines(queries: Array, candidates: Array) -> Array:
    """Return the highest cosine of each candidate that points away from all query vectors.

    Args:
        queries: Of unit norm, shape (m, d).
        candidates: Of unit norm, shape (n, d).

    Returns:
        A negative cosine, or 0 for a candidate that does not point away, shape (n,). Added to
        the gains, which are not negative, it puts the others first.
    """
    highest = (candidates @ queries.T).max(axis=1)
    return np.where(highest < -_ROUNDING, highest, 0.0)
