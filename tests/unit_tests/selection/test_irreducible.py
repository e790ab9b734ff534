"""Compare the irreducible variance with its definition and with choices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from reference import problems

from langchain_sift.selection import select
from langchain_sift.selection.posterior import irreducible_variance


@given(problems(duplicates=False))
def test_it_is_the_squared_distance_from_the_span_of_the_candidates(problem):
    weights, *_ = np.linalg.lstsq(problem.candidates.T, problem.queries.T, rcond=None)
    expected = np.sum((problem.queries.T - problem.candidates.T @ weights) ** 2)
    found = irreducible_variance(problem.queries, problem.candidates)
    assert found == pytest.approx(expected, abs=1e-6)
    tensors = torch.tensor(problem.queries), torch.tensor(problem.candidates)
    assert irreducible_variance(*tensors) == pytest.approx(found, abs=1e-9)


@pytest.mark.slow
@given(problems())
def test_no_choice_goes_below_it(problem):
    floor = irreducible_variance(problem.queries, problem.candidates)
    found = select(
        problem.queries,
        problem.candidates,
        k=problem.k,
        noise_variance=problem.noise_variance,
        replace=True,
    )
    assert np.all(found.posterior_variances >= floor - 1e-7)


@given(problems(duplicates=False))
def test_all_candidates_with_little_noise_come_close_to_it(problem):
    floor = irreducible_variance(problem.queries, problem.candidates)
    found = select(problem.queries, problem.candidates, k=20, noise_variance=1e-10)
    assert found.posterior_variances[-1] == pytest.approx(floor, abs=1e-4)


def test_without_candidates_it_is_the_prior_variance():
    query = np.array([[3.0, 4.0]])
    assert irreducible_variance(query, np.empty((0, 2))) == 25.0
