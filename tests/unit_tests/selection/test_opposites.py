"""Choose for retrieval, and compare with the paper's formula among rows that do not point away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from langchain_sift.selection import select
from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.marginal_relevance import choose_by_relevance
from langchain_sift.selection.nearest import choose_nearest
from langchain_sift.selection.opposites import (
    choose_for_retrieval,
    with_variances_of_retrieval,
)
from langchain_sift.selection.residual import residual_steps
from langchain_sift.selection.settings import SelectionSettings

NOISES = st.floats(-6, 3).map(lambda exponent: 10.0**exponent)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def choose(problem, **options):
    settings = {"k": problem.k, "noise_variance": problem.noise_variance, **options}
    matrices = as_matrices(unit(problem.queries), unit(problem.candidates))
    return choose_for_retrieval(matrices, SelectionSettings(**settings))


def assert_ordered(queries, candidates, indices):
    """Assert that rows that point away come after all others, and the nearest of them first."""
    highest = (candidates @ queries.T).max(axis=1)
    chosen = highest[indices]
    away = np.flatnonzero(chosen < -1e-6)
    if len(away):
        left = np.delete(highest, indices)
        assert away[0] == len(chosen) - len(away)
        assert not (left >= -1e-6).any()
        assert_array_equal(away, np.arange(away[0], len(chosen)))
        assert (np.diff(chosen[away]) <= 1e-9).all()
        assert left.max(initial=-1.0) <= chosen[-1] + 1e-9


@pytest.mark.slow
@settings(max_examples=200)
@given(problem=reference.problems(), noise_variance=NOISES)
def test_an_opposite_row_never_precedes_another(problem, noise_variance):
    found = choose(problem, noise_variance=noise_variance)
    assert len(set(found.indices)) == min(problem.k, len(problem.candidates))
    assert_ordered(unit(problem.queries), unit(problem.candidates), found.indices)
    left = np.array([found.prior_variance, *found.posterior_variances])
    assert (np.diff(left) <= 0.0).all()
    assert_allclose(found.gains, -np.diff(left), atol=1e-12)


@pytest.mark.slow
@settings(max_examples=200)
@given(problem=reference.problems(duplicates=False))
def test_the_choice_is_that_of_brute_force(problem):
    queries, candidates = unit(problem.queries), unit(problem.candidates)
    found = choose(problem)
    indices, variances = reference.retrieval(
        queries, candidates, k=problem.k, noise_variance=problem.noise_variance
    )
    assert_array_equal(found.indices, indices)
    assert_allclose(found.posterior_variances, variances, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=100)
@given(problem=reference.problems(), kernel=st.sampled_from(["linear", "rbf"]))
def test_fine_tuning_and_the_other_kernel_keep_the_formula_of_the_paper(problem, kernel):
    options = {"kernel": kernel, "replace": kernel == "linear"}
    found = choose(problem, **options)
    expected = select(
        unit(problem.queries),
        unit(problem.candidates),
        k=problem.k,
        noise_variance=problem.noise_variance,
        **options,
    )
    assert_array_equal(found.indices, expected.indices)
    assert_array_equal(found.posterior_variances, expected.posterior_variances)


@pytest.mark.slow
@settings(max_examples=100)
@given(case=reference.constrained_problems())
def test_constraints_hold_and_opposite_rows_come_last(case):
    problem = replace(case.problem, replace=False)
    case = replace(case, problem=problem, length_scale=None)
    queries, candidates = unit(problem.queries), unit(problem.candidates)
    options = case.options()
    found = choose_for_retrieval(as_matrices(queries, candidates), SelectionSettings(**options))
    indices = found.indices.tolist()
    is_away = reference.points_away(queries, candidates)
    for step, index in enumerate(indices):
        allowed = case.allowed(indices[:step])
        assert index in allowed
        assert not is_away[index] or is_away[allowed].all()
    assert len(indices) == problem.k or not case.allowed(indices)


def test_a_score_does_not_raise_an_opposite_row_above_another():
    query = np.array([[1.0, 0.0]])
    rows = unit(np.array([[-1.0, 1.0], [1.0, 3.0], [-1.0, 0.2], [0.0, 1.0]]))
    noise = np.array([0.01, 1e9, 0.01, 1e9])
    found = choose_for_retrieval(
        as_matrices(query, rows), SelectionSettings(k=4, noise_variance=noise)
    )
    assert found.indices.tolist() == [1, 3, 0, 2]
    assert_allclose(found.gains[2:], 0.0, atol=1e-11)


@pytest.mark.slow
@settings(max_examples=100)
@given(problem=reference.problems(), noise_variance=NOISES, step_fetch_k=st.integers(1, 5))
def test_a_residual_search_finds_the_rows_that_do_not_point_away(
    problem, noise_variance, step_fetch_k
):
    queries, candidates = unit(problem.queries), unit(problem.candidates)
    assume(len(np.unique(np.round(candidates, 5), axis=0)) == len(candidates))
    steps = residual_steps(
        queries,
        k=problem.k,
        step_fetch_k=step_fetch_k,
        noise_variance=noise_variance,
        opposites_last=True,
    )
    directions, count = next(steps)
    known: list[int] = []
    found = None
    while found is None:
        nearest = [np.argsort(-candidates @ each, kind="stable")[:count] for each in directions]
        new = [row for row in dict.fromkeys(np.ravel(nearest).tolist()) if row not in known]
        known += [int(row) for row in new]
        try:
            directions, count = steps.send(candidates[known[len(known) - len(new) :]])
        except StopIteration as end:
            found = end.value
    is_away = reference.points_away(queries, candidates)
    chosen = np.array(known)[found.indices]
    assert not is_away[chosen].any() or is_away[np.delete(np.arange(len(candidates)), chosen)].all()
    assert (np.diff(is_away[chosen].astype(int)) >= 0).all()


def test_rounding_is_no_direction():
    query = np.array([[1.0, 0.0, 0.0]])
    rows = unit(np.array([[-1e-8, 1.0, 0.0], [1.0, 1.0, 0.0], [-0.5, 0.0, 1.0]]))
    exact = unit(np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [-0.5, 0.0, 1.0]]))
    for noise_variance in (0.01, 6.5):
        options = SelectionSettings(k=3, noise_variance=noise_variance)
        found = choose_for_retrieval(as_matrices(query, rows), options)
        expected = choose_for_retrieval(as_matrices(query, exact), options)
        assert found.indices.tolist() == expected.indices.tolist() == [1, 0, 2]
        assert found.gains == pytest.approx(expected.gains, abs=1e-7)


@pytest.mark.parametrize("method", [choose_nearest, choose_by_relevance])
def test_other_methods_count_opposite_rows_as_noise_in_their_variances(method):
    rng = np.random.default_rng(0)
    rows, query = unit(rng.normal(size=(12, 5))), unit(rng.normal(size=(1, 5)))
    options = SelectionSettings(k=12, noise_variance=0.5)
    found = with_variances_of_retrieval(method)(as_matrices(query, rows), options)
    assert_array_equal(found.indices, method(as_matrices(query, rows), options).indices)
    is_opposite = rows @ query[0] < 0.0
    assert is_opposite.any()
    for step, left in enumerate(found.posterior_variances, start=1):
        known = [row for row in found.indices[:step] if not is_opposite[row]]
        assert left == pytest.approx(
            reference.posterior_variance(query, rows[known], 0.5), abs=1e-9
        )
    sift = choose_for_retrieval(as_matrices(query, rows), options)
    assert found.posterior_variances[-1] == pytest.approx(sift.posterior_variances[-1], abs=1e-9)
