"""Choose the simplest of several choices that is as good as the best, up to a standard error."""

from __future__ import annotations

import math

import numpy as np

from langchain_sift.selection.arguments import Array


def first_sufficient(losses: Array) -> int:
    """Return the index of the first choice that is as good as the best.

    As good means no worse than the best by more than the standard error of the difference, prompt
    by prompt (the one-standard-error rule; Breiman et al., 1984, section 3.4.3).

    Args:
        losses: Shape (prompts, choices), the simplest choice first.
    """
    best = int(np.argmin(losses.mean(axis=0)))
    for index in range(best):
        differences = losses[:, index] - losses[:, best]
        if differences.mean() <= standard_error(differences):  # False for a single prompt
            return index
    return best


def standard_error(values: Array) -> float:
    """Return the standard error of the mean of values, shape (n,); NaN for a single value."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))
