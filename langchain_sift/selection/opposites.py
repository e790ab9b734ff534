"""Choose with SIFT for retrieval: documents that point away from the query come last.

Axes: n candidates, m query vectors, d dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from langchain_sift.selection.arguments import Array, Matrices
from langchain_sift.selection.greedy import Method, Selection
from langchain_sift.selection.posterior import Posterior
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
    gain is small anyway. With `replace`, as in the paper, the choice is that of `select`.

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
    if not penalties.any():
        return choose_by_gain(matrices, settings)
    return choose_by_gain(matrices, _with_noise(settings, penalties), penalties=penalties)


def with_variances_of_retrieval(method: Method) -> Method:
    """Return a method with the same choices, and the variances that SIFT would report for them.

    Candidates that point away from all query vectors count as pure noise there, too, so that the
    variances of several methods can be compared.

    Args:
        method: Chooses; it gets the settings as they are.
    """

    def choose(matrices: Matrices, settings: SelectionSettings) -> Selection:
        selection = method(matrices, settings)
        chosen = matrices.candidates[selection.indices]
        if not opposite_penalties(matrices.queries, chosen, settings).any():
            return selection
        penalties = opposite_penalties(matrices.queries, matrices.candidates, settings)
        capacity = len(selection.indices)
        posterior = Posterior(matrices, _with_noise(settings, penalties), capacity=capacity)
        variances = [posterior.query_variance]
        for index in selection.indices.tolist():
            posterior.condition(index)
            variances.append(posterior.query_variance)
        return Selection.of(posterior.choices, variances)

    return choose


def _with_noise(settings: SelectionSettings, penalties: Array) -> SelectionSettings:
    """Return the settings with a λ' for each candidate: no information where one has a penalty."""
    noise = np.where(penalties < 0.0, NO_INFORMATION, settings.noise_variance)
    return replace(settings, noise_variance=noise)


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
