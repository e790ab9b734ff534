"""`select_residual`: SIFT out of an index that is asked before each choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference import posterior_variance, problems

from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.selection import select, select_residual


class Index:
    """Exact search over rows; remembers what it was asked and what it gave."""

    def __init__(self, rows, neighbors):
        self.rows, self.neighbors = rows, neighbors
        self.found = []
        self.asked = []

    def __call__(self, directions):
        self.asked.append(directions)
        new = []
        for similarities in directions @ self.rows.T:
            for row in np.argsort(-similarities)[: self.neighbors].tolist():
                if row not in self.found:
                    self.found.append(row)
                    new.append(row)
        return self.rows[new]


@given(problems(duplicates=False), st.sampled_from([None, 0.3]))
def test_an_index_that_gives_everything_leads_to_the_choice_of_select(problem, alpha):
    arguments = {
        "k": problem.k,
        "noise_variance": problem.noise_variance,
        "replace": problem.replace,
        "stopping_alpha": alpha,
    }
    index = Index(problem.candidates, len(problem.candidates))
    found = select_residual(problem.queries, index, **arguments)
    expected = select(problem.queries, problem.candidates, **arguments)
    assert [index.found[row] for row in found.indices] == expected.indices.tolist()
    assert_allclose(found.posterior_variances, expected.posterior_variances, atol=1e-9)
    assert_allclose(found.gains, expected.gains, atol=1e-9)
    assert found.prior_variance == pytest.approx(expected.prior_variance)


@given(problems(duplicates=False))
def test_the_directions_are_the_query_less_its_projection_onto_the_choices(problem):
    index = Index(problem.candidates, 3)
    found = select_residual(
        problem.queries, index, k=problem.k, noise_variance=problem.noise_variance
    )
    chosen = problem.candidates[[index.found[row] for row in found.indices]]
    for step, directions in enumerate(index.asked):
        # P x* = x* - X_nᵀ (K_n + λ' I)⁻¹ X_n x*
        known = chosen[:step]
        kernel = known @ known.T + problem.noise_variance * np.eye(step)
        residuals = (
            problem.queries - (known.T @ np.linalg.solve(kernel, known @ problem.queries.T)).T
        )
        units = residuals / np.linalg.norm(residuals, axis=1, keepdims=True)
        assert_allclose(directions, np.concatenate([units, -units]), atol=1e-6)


@given(problems(duplicates=False))
def test_the_variances_are_those_of_the_formula_and_no_row_comes_twice(problem):
    index = Index(problem.candidates, 2)
    found = select_residual(
        problem.queries, index, k=problem.k, noise_variance=problem.noise_variance
    )
    rows = [index.found[row] for row in found.indices]
    assert len(set(rows)) == len(rows)
    for step, variance in enumerate(found.posterior_variances, start=1):
        expected = posterior_variance(
            problem.queries, problem.candidates[rows[:step]], problem.noise_variance
        )
        assert variance == pytest.approx(expected, abs=1e-8)


def test_it_finds_what_a_pre_selection_of_neighbours_misses():
    # Two facts: one held by a hundred rows near the query, one by a row further off.
    rng = np.random.default_rng(0)
    near = np.array([1.0, 0.0, 0.0]) + 1e-3 * rng.standard_normal((100, 3))
    rows = np.vstack([near, [0.0, 1.0, 0.0]])
    query = np.array([0.9, 0.45, 0.0])
    nearest = rows[np.argsort(-(rows @ query))[:20]]
    once = select(query, nearest, k=2)
    index = Index(rows, 5)
    asking = select_residual(query, index, k=2)
    assert index.found[asking.indices[1]] == 100
    assert len(index.found) <= 30
    assert asking.posterior_variances[-1] < 0.1 * once.posterior_variances[-1]


def test_it_ends_when_the_index_has_no_more():
    rng = np.random.default_rng(0)
    rows, query = rng.standard_normal((3, 8)), rng.standard_normal(8)
    assert len(select_residual(query, Index(rows, 1), k=9).indices) == 3
    assert len(select_residual(query, Index(rows, 1), k=9, replace=True).indices) == 9
    empty = select_residual(query, Index(np.empty((0, 8)), 1), k=9)
    assert len(empty.indices) == 0
    assert empty.prior_variance == pytest.approx(float(query @ query))


def test_a_query_that_is_explained_entirely_asks_nothing_more():
    rows = np.eye(3)
    index = Index(rows, 1)
    found = select_residual(rows[0], index, k=3, noise_variance=1e-20)
    assert len(index.asked[0]) == 2
    assert index.asked[1].shape == (0, 3)
    assert found.posterior_variances[0] == pytest.approx(0.0, abs=1e-12)


def test_what_is_wrong_is_said():
    rows, query = np.eye(3), np.ones(3)
    with pytest.raises(ArgumentError, match=r"k must be .* got 0"):
        select_residual(query, Index(rows, 1), k=0)
    with pytest.raises(EmbeddingError, match="query_embeddings must be finite"):
        select_residual(np.array([np.nan, 0, 0]), Index(rows, 1), k=1)
    with pytest.raises(EmbeddingError, match=r"query has 3 dimensions .* 2"):
        select_residual(query, lambda _: np.eye(2), k=1)
