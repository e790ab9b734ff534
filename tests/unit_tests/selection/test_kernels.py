"""Compare kernels, noise variances, budgets and caps with the dense formula."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from unit_tests.selection.test_sift import rows_with_cosines, unit_rows

from langchain_sift.errors import ArgumentError
from langchain_sift.selection import SELECTORS, hull, select
from langchain_sift.selection.posterior import irreducible_variance
from langchain_sift.selection.settings import Kernel

TOLERANCE = 1e-9
LENGTH_SCALES = [0.1, 0.35, 1.0, 10.0]


@pytest.mark.slow
@settings(max_examples=300)
@given(case=reference.constrained_problems())
def test_every_choice_is_allowed_and_attains_the_best_of_the_formula(case):
    q, x = case.problem.queries, case.problem.candidates
    selection = select(q, x, **case.options())
    chosen: list[int] = []
    variance = selection.prior_variance
    assert_allclose(variance, sum(case.kernel(row, row) for row in q), rtol=TOLERANCE)
    costs = np.ones(len(x)) if case.costs is None else case.costs
    if case.max_cost is not None:
        plain = select(q, x, **{**case.options(), "costs": None, "max_cost": None})
        if costs[plain.indices].sum() <= case.max_cost:  # the budget does not bind
            costs = np.ones(len(x))
    for index, left in zip(selection.indices, selection.posterior_variances, strict=True):
        after = reference.variances_if_chosen(q, x, chosen, case.noise, case.kernel)
        reductions = (variance - after) / costs
        allowed = case.allowed(chosen)
        assert index in allowed
        scale = TOLERANCE * selection.prior_variance
        assert reductions[index] >= reductions[allowed].max() * (1 - 1e-6) - scale
        assert_allclose(left, after[index], rtol=TOLERANCE, atol=scale)
        chosen.append(index)
        variance = after[index]
    assert len(chosen) == case.problem.k or not case.allowed(chosen)


@pytest.mark.parametrize("length_scale", LENGTH_SCALES)
def test_the_kernel_is_the_formula(length_scale):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((12, 5))
    norms = np.vecdot(rows, rows)
    found = Kernel("rbf", length_scale).of_products(np, rows @ rows.T, norms[:, None], norms)
    kernel = reference.rbf(length_scale)
    expected = [[kernel(left, right) for right in rows] for left in rows]
    assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


@settings(max_examples=60)
@given(case=reference.constrained_problems(), dtype=st.sampled_from(["float32", "float64"]))
def test_torch_tensors_give_the_choice_of_arrays_under_constraints(case, dtype):
    torch = pytest.importorskip("torch")
    arrays = [np.asarray(rows, dtype) for rows in (case.problem.queries, case.problem.candidates)]
    expected = select(*arrays, **case.options())
    found = select(*map(torch.from_numpy, arrays), **case.options())
    assert len(found.indices) == len(expected.indices)
    if dtype == "float64":
        assert_allclose(found.posterior_variances, expected.posterior_variances, atol=1e-8)


@settings(max_examples=100)
@given(case=reference.constrained_problems())
def test_the_uncertainty_is_between_zero_and_the_prior(case):
    selection = select(case.problem.queries, case.problem.candidates, **case.options())
    variances = [selection.prior_variance, *selection.posterior_variances]
    assert np.min(variances) >= 0
    assert np.all(np.diff(variances) <= 0)
    if case.length_scale is not None:
        assert selection.prior_variance == len(case.problem.queries)


@pytest.mark.parametrize("seed", range(10))
def test_a_short_length_scale_gives_the_nearest_neighbours(seed):
    rng = np.random.default_rng(seed)
    query, cosines = unit_rows(rng, 1, 64)[0], rng.permutation(np.linspace(0.4, 0.9, 12))
    candidates = rows_with_cosines(rng, query, cosines)
    found = select(query, candidates, k=12, kernel="rbf", length_scale=0.15, noise_variance=0.1)
    assert_array_equal(found.indices, np.argsort(-cosines))


@pytest.mark.parametrize("length_scale", [np.int64(1), 1e-3, Fraction(1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_real_length_scale_gives_variances_up_to_the_prior(length_scale, dtype):
    rows = unit_rows(np.random.default_rng(3), 51, 384).astype(dtype)
    settings = {"kernel": "rbf", "length_scale": length_scale, "noise_variance": 0.1}
    found = select(rows[0], rows, k=20, **settings)
    assert found.indices[0] == 0
    left = reference.posterior_variance(rows[:1], rows[:1], 0.1, reference.rbf(float(length_scale)))
    assert found.posterior_variances[0] == pytest.approx(left, abs=1e-3)
    assert np.all(found.posterior_variances <= 1)


def test_the_rbf_kernel_does_not_choose_the_opposite_of_the_query():
    query = np.array([1.0, 0.0, 0.0])
    candidates = np.array([[-1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.5, 0.0, math.sqrt(0.75)]])
    assert select(query, candidates, k=1).indices[0] == 0
    assert_array_equal(select(query, candidates, k=2, kernel="rbf").indices, [1, 2])


def test_a_noisy_candidate_gives_way_to_a_less_similar_one():
    query = np.array([1.0, 0.0])
    candidates = np.array([[1.0, 0.0], [0.9, math.sqrt(0.19)]])
    assert select(query, candidates, k=1, noise_variance=[0.1, 0.1]).indices[0] == 0
    assert select(query, candidates, k=1, noise_variance=[1e6, 0.1]).indices[0] == 1


@pytest.mark.parametrize("selector", [name for name in SELECTORS if name != "hull"])
def test_every_method_keeps_to_budget_and_caps(selector):
    rng = np.random.default_rng(4)
    rows = unit_rows(rng, 41, 8)
    costs, groups = rng.integers(1, 20, size=40), rng.integers(0, 5, size=40)
    found = SELECTORS[selector](
        rows[0],
        rows[1:],
        k=40,
        replace=False,
        costs=costs,
        max_cost=60,
        groups=groups,
        max_per_group=2,
    )
    assert len(found.indices) > 2
    assert costs[found.indices].sum() <= 60
    assert np.bincount(groups[found.indices]).max() <= 2
    left = 60 - costs[found.indices].sum()
    full = np.bincount(groups[found.indices], minlength=5) == 2
    others = np.setdiff1d(np.arange(40), found.indices)
    assert not any(costs[row] <= left and not full[groups[row]] for row in others)


def test_groups_may_be_named():
    rows = np.eye(4)
    found = select(rows[0] + rows[1], rows, k=3, groups=["a", "a", "b", "c"], max_per_group=1)
    assert_array_equal(found.indices, [0, 2, 3])


def test_nothing_is_chosen_if_nothing_fits_the_budget():
    found = select([1.0, 0.0], np.eye(2), k=2, costs=[3, 4], max_cost=2)
    assert len(found.indices) == 0
    assert found.prior_variance == 1.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length_scale", LENGTH_SCALES)
def test_the_irreducible_variance_is_that_of_all_candidates_without_noise(seed, length_scale):
    rows = unit_rows(np.random.default_rng(seed), 24, 5)
    queries, candidates, kernel = rows[:2], rows[2:], Kernel("rbf", length_scale)
    left = reference.posterior_variance(queries, candidates, 1e-9, reference.rbf(length_scale))
    found = irreducible_variance(queries, candidates, kernel)
    assert found == pytest.approx(left, abs=1e-6)
    everything = select(
        queries, candidates, k=22, kernel="rbf", length_scale=length_scale, noise_variance=1e-4
    )
    assert everything.posterior_variances[-1] >= found - 1e-9
    assert irreducible_variance(queries, np.empty((0, 5)), kernel) == 2.0


def test_the_irreducible_variance_of_many_candidates_takes_the_nearest():
    rows = unit_rows(np.random.default_rng(0), 2200, 16)
    kernel = Kernel("rbf", 0.35)
    nearest = rows[1:][np.argsort(-(rows[1:] @ rows[0]))[:2000]]
    found = irreducible_variance(rows[:1], rows[1:], kernel)
    assert found == pytest.approx(irreducible_variance(rows[:1], nearest, kernel), abs=1e-9)


BAD = [
    ({"kernel": "rfb"}, "kernel must be one of .*'rfb': did you mean 'rbf'"),
    ({"kernel": None}, "kernel must be one of .*None"),
    ({"kernel": "rbf", "length_scale": 0.0}, r"length_scale must be positive .*0\.0"),
    ({"length_scale": 1e-160}, r"length_scale must be at least 0\.001, got 1e-160"),
    ({"length_scale": -1}, "length_scale must be positive and finite, got -1"),
    ({"length_scale": math.nan}, "length_scale must be positive and finite, got nan"),
    ({"noise_variance": [0.1, 0.1]}, "one for each of the 3 candidates, got 2"),
    ({"noise_variance": [0.1, math.nan, 1]}, "positive and finite, got nan for candidate 1"),
    ({"noise_variance": [0.1, 0, 1]}, "noise_variance must be positive and finite"),
    ({"noise_variance": [[0.1, 1, 1]]}, "noise_variance must have shape"),
    ({"costs": [1, 2]}, "costs must have one value for each of the 3 candidates"),
    ({"costs": [1, -2, 3]}, "costs must be positive and finite, got -2 for candidate 1"),
    ({"costs": ["a", "b", "c"]}, "costs must have shape"),
    ({"max_cost": 3}, "max_cost needs costs"),
    ({"costs": [1, 2, 3], "max_cost": 0}, "max_cost must be positive"),
    ({"groups": [1, 2, 3]}, "groups and max_per_group need each other"),
    ({"max_per_group": 2}, "groups and max_per_group need each other"),
    ({"groups": [1, 2, 3], "max_per_group": 0}, "max_per_group must be an integer of at least 1"),
    ({"groups": [1, 2], "max_per_group": 1}, "groups must have one value for each of the 3"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_an_invalid_option_is_named_with_its_value(options, message):
    with pytest.raises(ArgumentError, match=message):
        select(np.ones(3), np.eye(3), **{"k": 2, **options})


def test_hull_refuses_constraints():
    with pytest.raises(ArgumentError, match="hull takes no costs and no groups"):
        hull(np.ones(3), np.eye(3), k=2, costs=[1, 1, 1], max_cost=2)
