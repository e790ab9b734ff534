"""Compare each baseline with its definition or another implementation."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from numpy.testing import assert_allclose, assert_array_equal

from langchain_sift.errors import ArgumentError
from langchain_sift.selection import (
    SELECTORS,
    mmr,
    nearest_neighbors,
    random,
    repeat_nearest,
    uncertainty_sampling,
)


def cosines(problem):
    """Return the mean over the queries of the cosine with each candidate."""
    products = problem.queries @ problem.candidates.T
    lengths = np.outer(
        np.linalg.norm(problem.queries, axis=1), np.linalg.norm(problem.candidates, axis=1)
    )
    return (products / lengths).mean(axis=0)


@settings(max_examples=100)
@given(problem=reference.problems(duplicates=False))
def test_nearest_neighbours_are_ordered_by_cosine(problem):
    for replace in (False, True):
        found = nearest_neighbors(problem.queries, problem.candidates, k=problem.k, replace=replace)
        assert_array_equal(found.indices, np.argsort(-cosines(problem))[: problem.k])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise_variance", [1e-12, 1e-2, 1.0])
def test_neighbours_of_nearly_the_same_cosine_are_ordered_whatever_the_noise(dtype, noise_variance):
    angles = np.random.default_rng(4).permutation(np.linspace(0.5, 0.7, 400))
    rows = np.column_stack([np.cos(angles), np.sin(angles)]).astype(dtype)
    found = nearest_neighbors([1.0, 0.0], rows, k=400, noise_variance=noise_variance)
    assert_array_equal(found.indices, np.argsort(angles))


@settings(max_examples=100)
@given(problem=reference.problems(duplicates=False))
def test_the_nearest_is_repeated_k_times(problem):
    order = np.argsort(-cosines(problem))
    repeated = repeat_nearest(problem.queries, problem.candidates, k=problem.k)
    once = repeat_nearest(problem.queries, problem.candidates, k=problem.k, replace=False)
    assert_array_equal(repeated.indices, [order[0]] * problem.k)
    assert_array_equal(once.indices, order[: problem.k])


@pytest.mark.slow
@settings(max_examples=200)
@given(problem=reference.problems(duplicates=False), lambda_mult=st.floats(0, 1))
def test_mmr_chooses_what_langchain_chooses_in_the_same_order(problem, lambda_mult):
    query = problem.queries[0]
    found = mmr(query, problem.candidates, k=problem.k, lambda_mult=lambda_mult)
    expected = maximal_marginal_relevance(
        query, problem.candidates.tolist(), lambda_mult=lambda_mult, k=problem.k
    )
    assert_array_equal(found.indices, expected)


@pytest.mark.parametrize("lambda_mult", [-0.1, 1.1, float("nan")])
def test_mmr_names_a_trade_off_out_of_range(lambda_mult):
    with pytest.raises(ArgumentError, match=f"lambda_mult .* got {lambda_mult}"):
        mmr(np.ones(2), np.eye(2), k=1, lambda_mult=lambda_mult)


@settings(max_examples=100)
@given(problem=reference.problems())
def test_uncertainty_sampling_takes_the_highest_variance_of_the_formula(problem):
    x, noise = problem.candidates, problem.noise_variance
    found = uncertainty_sampling(
        problem.queries, x, k=problem.k, noise_variance=noise, replace=problem.replace
    )
    for step, index in enumerate(found.indices):
        chosen = found.indices[:step]
        own = reference.own_variances(x, chosen, noise)
        allowed = own if problem.replace else np.delete(own, chosen)
        assert own[index] >= allowed.max() * (1 - 1e-8) - 1e-9


def test_uncertainty_sampling_ignores_the_query():
    rng = np.random.default_rng(0)
    candidates, queries = rng.standard_normal((20, 6)), rng.standard_normal((2, 6))
    first, second = (uncertainty_sampling(query, candidates, k=8).indices for query in queries)
    assert_array_equal(first, second)


def test_the_same_seed_chooses_the_same_rows_and_another_seed_others():
    candidates = np.eye(30)
    first, again, other = (
        random(np.ones(30), candidates, k=20, seed=seed).indices.tolist() for seed in (4, 4, 5)
    )
    assert first == again
    assert first != other


def test_a_random_choice_repeats_a_row_only_with_replace():
    candidates = np.eye(12)
    for seed in range(20):
        once = random(np.ones(12), candidates, k=12, seed=seed).indices
        assert sorted(once) == list(range(12))
    again = random(np.ones(12), candidates, k=60, replace=True).indices
    assert len(again) == 60
    assert len(set(again)) < 60


def test_a_random_choice_is_uniform():
    seeds, rows = 1500, 10
    firsts = [
        random(np.ones(rows), np.eye(rows), k=1, seed=seed).indices[0] for seed in range(seeds)
    ]
    expected = seeds / rows
    chi_square = ((np.bincount(firsts, minlength=rows) - expected) ** 2 / expected).sum()
    assert chi_square < 27.88  # the quantile 0.999 for 9 degrees of freedom


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SELECTORS))
@settings(max_examples=25)
@given(problem=reference.problems())
def test_every_method_reports_the_variance_of_the_formula_and_takes_no_candidates(name, problem):
    q, x, noise = problem.queries, problem.candidates, problem.noise_variance
    found = SELECTORS[name](q, x, k=problem.k, noise_variance=noise, replace=problem.replace)
    expected = [
        reference.posterior_variance(q, x[found.indices[: step + 1]], noise)
        for step in range(len(found.indices))
    ]
    assert_allclose(found.posterior_variances, expected, rtol=0, atol=1e-9 * np.sum(q * q))
    assert SELECTORS[name](q, x[:0], k=problem.k).indices.shape == (0,)


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_every_method_takes_tensors(name):
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(2).standard_normal((25, 8))
    of_arrays = SELECTORS[name](rows[0], rows[1:], k=9)
    tensors = torch.from_numpy(rows)
    assert_array_equal(SELECTORS[name](tensors[0], tensors[1:], k=9).indices, of_arrays.indices)
