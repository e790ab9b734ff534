"""Choose with `select_residual` from an index that is searched before each choice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference import posterior_variance, problems, variances_if_chosen

from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.selection import select, select_residual


class Index:
    """Exact search over rows, with a record of the directions and the results.

    Attributes:
        returned: The rows returned so far, in order.
        directions: The directions of each search.
        results: The rows nearest to each direction of each search, old ones included.
        known: The rows returned before each search.
    """

    def __init__(self, rows):
        self.rows = rows
        self.returned = []
        self.directions = []
        self.results = []
        self.known = []

    def __call__(self, directions, count):
        self.directions.append(directions)
        self.known.append(list(self.returned))
        results = [np.argsort(-near)[:count].tolist() for near in directions @ self.rows.T]
        self.results.append(results)
        new = list(dict.fromkeys(row for nearest in results for row in nearest))
        new = [row for row in new if row not in self.returned]
        self.returned += new
        return self.rows[new]


def chosen_with_index(problem, step_fetch_k, **settings):
    """Return the rows chosen for a problem, and the index that was searched."""
    index = Index(problem.candidates)
    found = select_residual(
        problem.queries,
        index,
        k=problem.k,
        step_fetch_k=step_fetch_k,
        noise_variance=problem.noise_variance,
        **settings,
    )
    return [index.returned[row] for row in found.indices], index


def of_unit_norm(problem):
    norms = np.linalg.norm(problem.candidates, axis=1, keepdims=True)
    return dataclasses.replace(problem, candidates=problem.candidates / norms)


@pytest.mark.slow
@given(problems(duplicates=False), st.sampled_from([None, 0.3]))
def test_an_index_that_returns_all_rows_gives_the_choice_of_select(problem, alpha):
    arguments = {
        "k": problem.k,
        "noise_variance": problem.noise_variance,
        "replace": problem.replace,
        "stopping_alpha": alpha,
    }
    index = Index(problem.candidates)
    found = select_residual(
        problem.queries, index, step_fetch_k=len(problem.candidates), **arguments
    )
    expected = select(problem.queries, problem.candidates, **arguments)
    assert [index.returned[row] for row in found.indices] == expected.indices.tolist()
    assert_allclose(found.posterior_variances, expected.posterior_variances, atol=1e-9)
    assert_allclose(found.gains, expected.gains, atol=1e-9)
    assert found.prior_variance == pytest.approx(expected.prior_variance)


@pytest.mark.slow
@given(problems(duplicates=False))
def test_directions_are_the_query_less_its_projection_onto_the_choices(problem):
    rows, index = chosen_with_index(problem, 3)
    for step, directions in enumerate(index.directions):
        # P x* = x* - X_nᵀ (K_n + λ' I)⁻¹ X_n x*
        known = problem.candidates[rows[:step]]
        kernel = known @ known.T + problem.noise_variance * np.eye(step)
        residuals = (
            problem.queries - (known.T @ np.linalg.solve(kernel, known @ problem.queries.T)).T
        )
        units = residuals / np.linalg.norm(residuals, axis=1, keepdims=True)
        expected = np.concatenate([units, -units])
        assert_allclose(directions[: len(expected)], expected, atol=1e-6)
        assert len(directions) <= len(expected) + 1


def last_directions(problem, replace):
    """Yield, before each step, the choices, the best known candidate and the last direction."""
    chosen, index = chosen_with_index(problem, 2, replace=replace)
    for step, directions in enumerate(index.directions):
        known = [row for row in index.known[step] if replace or row not in chosen[:step]]
        if known and len(directions) == 2 * len(problem.queries) + 1:
            left = left_after(problem, chosen[:step], problem.candidates[known])
            yield chosen[:step], problem.candidates[known[np.argmin(left)]], directions[-1]


def left_after(problem, chosen, points):
    rows = np.vstack([problem.candidates[chosen], points])
    places = range(len(chosen))
    return variances_if_chosen(problem.queries, rows, places, problem.noise_variance)[len(chosen) :]


@pytest.mark.slow
@given(problems(duplicates=False).map(of_unit_norm), st.booleans())
def test_the_last_direction_is_uphill_of_the_gain_at_the_best_candidate(problem, replace):
    for chosen, best, direction in last_directions(problem, replace):
        steps = 1e-4 * np.eye(len(best))
        slope = left_after(problem, chosen, best - steps) - left_after(
            problem, chosen, best + steps
        )
        # Rows are on the unit sphere, where only what is tangent to it counts.
        slope, along = (v - (v @ best) * best for v in (slope / 2e-4, direction))
        lengths = np.linalg.norm(slope), np.linalg.norm(along)
        if min(lengths) > 1e-2:
            assert slope @ along / np.prod(lengths) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
@given(problems(duplicates=False).map(of_unit_norm), st.booleans(), st.integers(0, 99))
def test_points_farther_along_the_last_direction_gain_more(problem, replace, seed):
    rng = np.random.default_rng(seed)
    for chosen, best, direction in last_directions(problem, replace):
        noise = rng.uniform(0, 1, (30, 1)) * rng.standard_normal((30, len(best)))
        points = direction + noise
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        farther = points[points @ direction > best @ direction]
        left = left_after(problem, chosen, np.vstack([best, farther]))
        assert np.all(left[1:] < left[0] + 1e-9)


@pytest.mark.slow
@given(problems(duplicates=False), st.integers(1, 4))
def test_enough_rows_are_fetched_that_may_be_chosen(problem, step_fetch_k):
    rows, index = chosen_with_index(problem, step_fetch_k)
    assert len(rows) == min(problem.k, len(problem.candidates))
    for step, results in enumerate(index.results):
        wanted = min(step_fetch_k, len(problem.candidates) - step)
        for nearest in results:
            assert len(set(nearest) - set(rows[:step])) >= wanted


@given(problems(duplicates=False), st.integers(1, 4))
def test_with_replace_no_more_than_step_fetch_k_rows_are_fetched(problem, step_fetch_k):
    _, index = chosen_with_index(problem, step_fetch_k, replace=True)
    assert max(len(nearest) for results in index.results for nearest in results) <= step_fetch_k


@pytest.mark.slow
@given(problems(duplicates=False))
def test_the_variances_are_those_of_the_formula_and_no_row_is_chosen_twice(problem):
    index = Index(problem.candidates)
    found = select_residual(
        problem.queries, index, k=problem.k, step_fetch_k=2, noise_variance=problem.noise_variance
    )
    rows = [index.returned[row] for row in found.indices]
    assert len(set(rows)) == len(rows)
    for step, variance in enumerate(found.posterior_variances, start=1):
        expected = posterior_variance(
            problem.queries, problem.candidates[rows[:step]], problem.noise_variance
        )
        assert variance == pytest.approx(expected, abs=1e-8)


def test_it_finds_a_row_that_a_pre_selection_of_neighbours_misses():
    # Two facts: a hundred rows near the query contain one, a row farther away the other.
    rng = np.random.default_rng(0)
    near = np.array([1.0, 0.0, 0.0]) + 1e-3 * rng.standard_normal((100, 3))
    rows = np.vstack([near, [0.0, 1.0, 0.0]])
    query = np.array([0.9, 0.45, 0.0])
    nearest = rows[np.argsort(-(rows @ query))[:20]]
    once = select(query, nearest, k=2)
    index = Index(rows)
    searched = select_residual(query, index, k=2)
    assert index.returned[searched.indices[1]] == 100
    assert len(index.returned) <= 30
    assert searched.posterior_variances[-1] < 0.1 * once.posterior_variances[-1]


def test_it_finds_a_row_near_a_choice_and_not_near_the_residual():
    # Ten rows turn away from the query step by step, each nearly explained by the first; fifty
    # rows are nearer to the residual of the first, and otherwise unlike all other rows.
    rng = np.random.default_rng(0)
    angles = np.linspace(0.0, 0.45, 10)
    turning = np.zeros((10, 60))
    turning[:, :2] = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    other = rng.standard_normal((50, 58))
    other *= np.sqrt(1 - 0.45**2) / np.linalg.norm(other, axis=1, keepdims=True)
    unlike = np.hstack([np.zeros((50, 1)), np.full((50, 1), -0.45), other])
    rows = np.vstack([turning, unlike])
    query = np.array([0.9, np.sqrt(1 - 0.9**2), *np.zeros(58)])
    index = Index(rows)
    found = select_residual(query, index, k=2)
    chosen = [index.returned[row] for row in found.indices]
    assert chosen == select(query, rows, k=2).indices.tolist() == [0, 9]
    assert 9 not in index.known[1]
    for direction in index.directions[1][:2]:
        assert 9 not in np.argsort(-(rows @ direction))[:9]


def test_it_ends_when_the_index_has_no_more_rows():
    rng = np.random.default_rng(0)
    rows, query = rng.standard_normal((3, 8)), rng.standard_normal(8)
    assert len(select_residual(query, Index(rows), k=9, step_fetch_k=1).indices) == 3
    assert len(select_residual(query, Index(rows), k=9, step_fetch_k=1, replace=True).indices) == 9
    empty = select_residual(query, Index(np.empty((0, 8))), k=9)
    assert len(empty.indices) == 0
    assert empty.prior_variance == pytest.approx(float(query @ query))


def test_a_fully_explained_query_searches_in_no_direction():
    rows = np.eye(3)
    index = Index(rows)
    found = select_residual(rows[0], index, k=3, step_fetch_k=1, noise_variance=1e-12)
    assert len(index.directions[0]) == 2
    assert index.directions[1].shape == (0, 3)
    assert found.posterior_variances[0] == pytest.approx(0.0, abs=1e-11)


def test_a_bad_argument_is_named():
    rows, query = np.eye(3), np.ones(3)
    with pytest.raises(ArgumentError, match=r"k must be .* got 0"):
        select_residual(query, Index(rows), k=0)
    with pytest.raises(ArgumentError, match=r"step_fetch_k must be .* got 0"):
        select_residual(query, Index(rows), k=1, step_fetch_k=0)
    with pytest.raises(EmbeddingError, match="query_embeddings must be finite"):
        select_residual(np.array([np.nan, 0, 0]), Index(rows), k=1)
    with pytest.raises(EmbeddingError, match=r"query has 3 dimensions .* 2"):
        select_residual(query, lambda *_: np.eye(2), k=1)


def test_an_index_of_tensors_takes_a_tensor_as_query():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    rows, query = rng.standard_normal((30, 6)), rng.standard_normal(6)
    index, tensors = Index(rows), Index(rows)
    expected = select_residual(query, index, k=9)
    found = select_residual(
        torch.tensor(query), lambda *search: torch.tensor(tensors(*search), requires_grad=True), k=9
    )
    assert tensors.returned == index.returned
    assert found.indices.tolist() == expected.indices.tolist()


def test_an_index_may_return_an_empty_list():
    assert len(select_residual(np.ones(3), lambda *_: [], k=2).indices) == 0
