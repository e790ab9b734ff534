"""Track which candidates may be chosen next: choices, a budget of costs, caps of groups.

Axes: n candidates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Matrices, as_numpy
from langchain_sift.selection.settings import SelectionSettings


class Eligibility:
    """The candidates that may be chosen next.

    A candidate may not, if it was chosen before (without `replace`), if it costs more than what is
    left of `max_cost`, or if `max_per_group` candidates of its group were chosen.
    """

    def __init__(self, matrices: Matrices, settings: SelectionSettings) -> None:
        """Start with no candidate chosen.

        Raises:
            ArgumentError: If there is not one cost, or one group, for each candidate.
        """
        n = len(matrices.candidates)
        self._xp = matrices.xp
        self._device = matrices.candidates.device
        self._replace = settings.replace
        # Added to the scores: minus infinity for a candidate that may not be chosen.
        self._penalties = self._xp.zeros(n, dtype=self._xp.float64, device=self._device)
        self._is_limited = settings.costs is not None or settings.groups is not None
        if not self._is_limited:
            return
        self._allowed = np.ones(n, dtype=bool)
        self._costs = _of_each_candidate("costs", settings.costs, n)
        self._remaining = math.inf if settings.max_cost is None else settings.max_cost
        self._groups = _of_each_candidate("groups", settings.groups, n)
        self._max_per_group = settings.max_per_group
        self._count_of: dict[Any, int] = {}
        self._exclude_expensive()
        self._update()

    def any(self) -> bool:
        """Return True if a candidate may be chosen."""
        return not self._is_limited or bool(self._allowed.any())

    def scores(self, scores: Any) -> Any:
        """Return the scores, minus infinity for the candidates that may not be chosen."""
        if self._replace and not self._is_limited:
            return scores
        return scores + self._penalties

    def choose(self, index: int) -> None:
        """Record a choice."""
        if not self._is_limited:
            if not self._replace:
                self._penalties[index] = -math.inf
            return
        if not self._replace:
            self._allowed[index] = False
        if self._costs is not None:
            self._remaining -= float(self._costs[index])
            self._exclude_expensive()
        if self._groups is not None:
            group = self._groups[index]
            self._count_of[group] = self._count_of.get(group, 0) + 1
            if self._count_of[group] == self._max_per_group:
                self._allowed &= self._groups != group
        self._update()

    def _exclude_expensive(self) -> None:
        if self._costs is not None:
            self._allowed &= self._costs <= self._remaining

    def _update(self) -> None:
        penalties = np.where(self._allowed, 0.0, -math.inf)
        self._penalties = self._xp.asarray(penalties, device=self._device)


def _of_each_candidate(name: str, values: Any, n: int) -> Any:
    """Return an array of shape (n,). None stays None."""
    if values is None:
        return None
    array = as_numpy(values)
    if array.shape != (n,):
        raise ArgumentError(
            f"{name} must have one value for each of the {n} candidates, got shape {array.shape}"
        )
    return array
