"""Compare HullFT's choice with the distance that it minimises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from langchain_sift.selection import hull
from langchain_sift.selection.hull import frank_wolfe, round_weights


def unit_rows(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def problem(seed, count=30, dimensions=8):
    rng = np.random.default_rng(seed)
    center = rng.standard_normal(dimensions)
    return unit_rows(center + rng.standard_normal((count + 1, dimensions)))


@pytest.mark.parametrize("seed", range(20))
def test_the_combination_is_near_the_nearest_of_the_hull(seed):
    query, *candidates = problem(seed)
    candidates = np.array(candidates)
    rows, weights = frank_wolfe(query, candidates, k=len(candidates))
    assert weights.sum() == pytest.approx(1.0)
    assert (np.diff(weights) <= 0).all()
    assert (weights > 0).all()
    point = weights @ candidates[rows]
    # |q - p|² exceeds the minimum over the hull by at most the gap: Jaggi (2013), section 2.
    gap = 2.0 * ((candidates - point) @ (query - point)).max()
    assert gap <= 4.0 * 4.0 / (len(candidates) + 2)
    nearest = ((candidates - query) ** 2).sum(axis=1).min()
    assert ((query - point) ** 2).sum() <= nearest + 1e-12


def test_a_query_in_the_hull_is_reached():
    corners = np.eye(3)
    query = np.array([0.5, 0.3, 0.2])
    rows, weights = frank_wolfe(query, corners, k=4)  # it stops at k rows, close or not
    assert np.abs(weights @ corners[rows] - query).max() < 1e-2
    assert rows == [0, 1, 2]


@pytest.mark.slow
@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 40))
def test_counts_are_no_worse_than_rounding_one_at_a_time(seed, k):
    query, *candidates = problem(seed)
    rows, weights = frank_wolfe(query, np.array(candidates), k=k)
    points = np.array(candidates)[rows]
    counts = round_weights(points, query, weights, k)
    assert counts.sum() == k
    assert (counts >= 0).all()

    def loss(counts):
        return ((query - counts @ points / k) ** 2).sum()

    rounded = np.floor(k * weights + 1e-9)
    for _ in range(k - int(rounded.sum())):
        rounded = min((rounded + one for one in np.eye(len(rows))), key=loss)
    assert loss(counts) <= loss(rounded) + 1e-12


@pytest.mark.parametrize("k", [1, 5, 12, 50])
def test_k_rows_with_repeats_and_each_once_without(k):
    query, *candidates = problem(3)
    repeated = hull(query, candidates, k=k, replace=True).indices
    once = hull(query, candidates, k=k).indices
    assert len(repeated) == k
    assert len(set(once)) == len(once) <= k
    assert set(repeated) <= set(once)
    distinct = [row for n, row in enumerate(repeated) if row not in repeated[:n]]
    assert_array_equal(distinct, [row for row in once if row in distinct])


def test_the_first_of_equal_candidates_is_chosen():
    rows = np.ones((5, 4))
    assert hull(np.ones(4), rows, k=3, replace=True).indices.tolist() == [0, 0, 0]
    assert hull(np.ones(4), rows, k=3).indices.tolist() == [0]
