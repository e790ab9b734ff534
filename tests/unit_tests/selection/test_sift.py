"""Compare `select` with the dense formula, which shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from langchain_sift.errors import ArgumentError
from langchain_sift.selection import select, select_residual

TOLERANCE = 1e-9


def unit_rows(rng, n, d):
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_with_cosines(rng, query, cosines):
    """Return unit rows that have the given cosines with a unit query."""
    others = rng.standard_normal((len(cosines), len(query)))
    others -= np.outer(others @ query, query)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    return np.outer(cosines, query) + np.sqrt(1 - cosines**2)[:, None] * others


@pytest.mark.slow
@settings(max_examples=300)
@given(problem=reference.problems())
def test_every_choice_attains_the_minimum_and_reports_the_variance_of_the_formula(problem):
    q, x, noise = problem.queries, problem.candidates, problem.noise_variance
    selection = select(q, x, k=problem.k, noise_variance=noise, replace=problem.replace)
    assert len(selection.indices) == (problem.k if problem.replace else min(problem.k, len(x)))
    assert_allclose(selection.prior_variance, np.sum(q * q), rtol=TOLERANCE)
    for step, index in enumerate(selection.indices):
        chosen = selection.indices[:step]
        after = reference.variances_if_chosen(q, x, chosen, noise)
        allowed = after if problem.replace else np.delete(after, chosen)
        assert after[index] <= allowed.min() + TOLERANCE * selection.prior_variance
        assert_allclose(
            selection.posterior_variances[step],
            after[index],
            rtol=TOLERANCE,
            atol=TOLERANCE * selection.prior_variance,
        )
    if not problem.replace:
        assert len(set(selection.indices)) == len(selection.indices)


@settings(max_examples=100)
@given(problem=reference.problems(duplicates=False))
def test_without_ties_the_choice_is_that_of_brute_force(problem):
    arguments = {"k": problem.k, "noise_variance": problem.noise_variance}
    selection = select(problem.queries, problem.candidates, replace=problem.replace, **arguments)
    indices, variances = reference.sift(
        problem.queries, problem.candidates, replace=problem.replace, **arguments
    )
    assert_array_equal(selection.indices, indices)
    assert_allclose(selection.posterior_variances, variances, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=100)
@given(problem=reference.problems())
def test_gains_are_not_negative_and_add_up_to_the_reduction_of_the_variance(problem):
    arguments = {"k": problem.k, "noise_variance": problem.noise_variance}
    selection = select(problem.queries, problem.candidates, replace=problem.replace, **arguments)
    observed = problem.candidates[selection.indices]
    left = reference.posterior_variance(problem.queries, observed, problem.noise_variance)
    assert (selection.gains >= 0).all()
    assert_allclose(selection.gains.sum(), np.sum(problem.queries**2) - left, atol=1e-8)


@settings(max_examples=50)
@given(problem=reference.problems(duplicates=False))
def test_torch_tensors_give_the_choice_of_arrays(problem):
    torch = pytest.importorskip("torch")
    arguments = {"k": problem.k, "noise_variance": problem.noise_variance}
    of_arrays = select(problem.queries, problem.candidates, replace=problem.replace, **arguments)
    of_tensors = select(
        torch.from_numpy(problem.queries),
        torch.from_numpy(problem.candidates),
        replace=problem.replace,
        **arguments,
    )
    assert_array_equal(of_tensors.indices, of_arrays.indices)
    assert_allclose(
        of_tensors.posterior_variances, of_arrays.posterior_variances, rtol=0, atol=1e-9
    )
    assert isinstance(of_tensors.gains, np.ndarray)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_tensors_of_every_type_can_be_chosen_from(dtype):
    torch = pytest.importorskip("torch")
    rows = torch.randint(1, 9, (12, 5), generator=torch.Generator().manual_seed(3))
    exact = select(rows[0].numpy(), rows[1:].numpy(), k=5)
    found = select(rows[0].to(getattr(torch, dtype)), rows[1:].to(getattr(torch, dtype)), k=5)
    assert_array_equal(found.indices, exact.indices)
    assert_allclose(found.posterior_variances, exact.posterior_variances, rtol=1e-9)


@settings(max_examples=150)
@given(problem=reference.problems(), library=st.sampled_from(["numpy", "torch"]))
def test_single_precision_attains_the_minimum_to_its_own_rounding(problem, library):
    single = [np.float32(rows) for rows in (problem.queries, problem.candidates)]
    q, x = (rows.astype(np.float64) for rows in single)  # the exact values of those embeddings
    arguments = {"k": problem.k, "noise_variance": problem.noise_variance}
    if library == "torch":
        single = [pytest.importorskip("torch").from_numpy(rows) for rows in single]
    selection = select(*single, replace=problem.replace, **arguments)
    # The rounding of one product, relative to λ'.
    scale = max(float((x * x).sum(1).max()), float((q * q).sum()))
    allowed = 1e-5 * scale * max(1.0, scale / problem.noise_variance)
    for step, index in enumerate(selection.indices):
        chosen = selection.indices[:step]
        after = reference.variances_if_chosen(q, x, chosen, problem.noise_variance)
        possible = after if problem.replace else np.delete(after, chosen)
        assert after[index] <= possible.min() + allowed
        assert abs(selection.posterior_variances[step] - after[index]) <= allowed


@pytest.mark.parametrize("noise_variance", [1e-8, 1e-5])
def test_small_noise_needs_double_precision(noise_variance):
    rng = np.random.default_rng(5)
    rows = unit_rows(rng, 40, 6).astype(np.float32)
    exact = rows.astype(np.float64)
    found = select(rows[0], rows[1:], k=12, noise_variance=noise_variance)
    expected = select(exact[0], exact[1:], k=12, noise_variance=noise_variance)
    assert_array_equal(found.indices, expected.indices)
    assert_array_equal(found.posterior_variances, expected.posterior_variances)


def test_weights_that_require_a_gradient_can_be_chosen_from():
    torch = pytest.importorskip("torch")
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))
    plain = select(rows[0], rows[1:], k=4)
    weights = rows.clone().requires_grad_()
    assert_array_equal(select(weights[0], weights[1:], k=4).indices, plain.indices)


@pytest.mark.parametrize("seed", range(20))
def test_the_first_choice_has_the_largest_absolute_cosine(seed):
    rng = np.random.default_rng(seed)
    query, candidates = unit_rows(rng, 1, 8)[0], unit_rows(rng, 40, 8)
    assert select(query, candidates, k=1).indices[0] == np.argmax(np.abs(candidates @ query))


@pytest.mark.parametrize("seed", range(10))
def test_much_noise_gives_the_nearest_neighbours_or_the_nearest_again_and_again(seed):
    rng = np.random.default_rng(seed)
    query, cosines = unit_rows(rng, 1, 12)[0], rng.permutation(np.linspace(0.1, 0.9, 15))
    candidates = rows_with_cosines(rng, query, cosines)
    once = select(query, candidates, k=15, noise_variance=1e6)
    again = select(query, candidates, k=6, noise_variance=1e6, replace=True)
    assert_array_equal(once.indices, np.argsort(-cosines))
    assert_array_equal(again.indices, [np.argmax(cosines)] * 6)


@settings(max_examples=150)
@given(
    problem=reference.problems(), step=st.integers(0, 7), scale=st.sampled_from([0.1, 0.8, 1.25, 9])
)
def test_adaptive_stopping_ends_the_same_choice_at_the_first_n_of_the_rule(problem, step, scale):
    q, x, noise = problem.queries, problem.candidates, problem.noise_variance
    arguments = {"k": problem.k, "noise_variance": noise, "replace": problem.replace}
    whole = select(q, x, **arguments).indices
    left = [
        reference.posterior_variance(q, x[whole[: n + 1]], noise) / len(q)
        for n in range(len(whole))
    ]
    sigmas = np.sqrt(np.maximum(left, 1e-12))
    steps = np.arange(1, len(whole) + 1)
    near = step % len(whole)
    alpha = scale / (steps[near] * sigmas[near])  # stops there, or just not yet
    first = np.argmax([*(sigmas > 1 / (alpha * steps)), True])
    assume(not np.isclose(alpha * steps * sigmas, 1, rtol=1e-4).any())
    stopped = select(q, x, stopping_alpha=float(alpha), **arguments)
    assert_array_equal(stopped.indices, whole[: first + 1])
    assert len(stopped.indices) >= 1


def test_k_above_the_number_of_candidates_returns_each_once():
    candidates = unit_rows(np.random.default_rng(0), 5, 6)
    assert sorted(select(candidates[0], candidates, k=50).indices) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("replace", [False, True])
def test_without_candidates_none_is_chosen(replace):
    selection = select(np.array([3.0, 4.0]), np.empty((0, 2)), k=3, replace=replace)
    assert selection.indices.shape == selection.gains.shape == (0,)
    assert selection.indices.dtype == np.int64
    assert selection.prior_variance == pytest.approx(25.0)


@settings(max_examples=60)
@given(problem=reference.problems(duplicates=False), seed=st.integers(0, 2**32 - 1))
def test_permuting_the_candidates_permutes_the_choice(problem, seed):
    order = np.random.default_rng(seed).permutation(len(problem.candidates))
    arguments = {"k": problem.k, "noise_variance": problem.noise_variance}
    before = select(problem.queries, problem.candidates, replace=problem.replace, **arguments)
    after = select(problem.queries, problem.candidates[order], replace=problem.replace, **arguments)
    assert_array_equal(order[after.indices], before.indices)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["side by side", "apart"])
@pytest.mark.parametrize(("n", "d"), [(3, 5), (17, 33), (50, 384), (201, 1024)])
def test_of_exact_duplicates_the_first_is_chosen_every_time(n, d, layout, dtype):
    rng = np.random.default_rng(n)
    kinds = np.repeat(np.arange(n), 3) if layout == "side by side" else np.tile(np.arange(n), 3)
    rows = np.concatenate([unit_rows(rng, n, d), unit_rows(rng, 1, d)]).astype(dtype)
    candidates, query = rows[kinds], rows[-1]
    chosen = select(query, candidates, k=20).indices
    assert_array_equal(select(query, candidates, k=20).indices, chosen)
    for step, index in enumerate(chosen):
        same = np.flatnonzero(kinds == kinds[index])
        assert index == min(set(same) - set(chosen[:step]))


def test_copies_with_hardly_any_noise_are_no_error():
    rows = np.repeat(unit_rows(np.random.default_rng(2), 4, 5), 5, axis=0)
    found = select(rows[0], rows, k=20, noise_variance=1e-12, replace=True)
    assert np.isfinite(found.posterior_variances).all()
    assert found.posterior_variances[-1] <= 1e-6


def index_of(rows):
    """Return a search that returns all rows once, for `select_residual`."""
    answers = iter([rows])
    return lambda *_: next(answers, np.empty((0, rows.shape[1])))


EVERY_SIFT = {
    "select": select,
    "select_residual": lambda query, rows, **arguments: select_residual(
        query, index_of(rows), **arguments
    ),
}


@pytest.mark.parametrize("name", EVERY_SIFT)
@pytest.mark.parametrize("length", [3.0, 30.0, 300.0, 3000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_long_vectors_the_variances_are_those_of_the_formula(name, length, dtype):
    rows = (length * unit_rows(np.random.default_rng(7), 60, 16)).astype(dtype)
    found = EVERY_SIFT[name](rows[0], rows[1:], k=30)
    exact = rows.astype(np.float64)
    for step in (1, 16, 30):
        chosen = exact[1:][found.indices[:step]]
        expected = reference.posterior_variance(exact[:1], chosen, 0.01)
        assert_allclose(found.posterior_variances[step - 1], expected, atol=1e-12 * length**2)


@pytest.mark.parametrize("name", EVERY_SIFT)
def test_long_vectors_with_hardly_any_noise_are_refused(name):
    rows = 100.0 * unit_rows(np.random.default_rng(0), 60, 16)
    assert len(EVERY_SIFT[name](rows[0], rows[1:], k=30, noise_variance=1e-8).indices) == 30
    with pytest.raises(ArgumentError, match=r"at least 1e-12 of .* is 1e\+04, got 1e-12"):
        EVERY_SIFT[name](rows[0], rows[1:], k=30, noise_variance=1e-12)
