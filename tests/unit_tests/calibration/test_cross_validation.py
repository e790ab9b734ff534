"""Choose settings by their scores, and measure the choice on queries that had no part in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_sift.calibration.cross_validation import (
    FOLDS,
    Scores,
    choose,
    cross_validate,
    fold_numbers,
)


def scores_of(rng: np.random.Generator, n: int, count: int = 5, counts: int = 1) -> Scores:
    sift = np.sort(rng.random((n, count, counts)), axis=2)
    return Scores("kind", sift, rng.random((n, counts)))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_the_highest_mean_is_chosen_and_with_two_kinds_among_those_that_lose_little(
    seed: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = scores_of(rng, n), scores_of(rng, n)
    best, _ = choose([first])
    means = [float(np.mean([query[index][-1] for query in first.sift])) for index in range(5)]
    assert means[best] == pytest.approx(max(means))
    chosen, _ = choose([first, second])
    assert means[chosen] >= 0.92 * max(means) - 1e-12
    others = [
        float(second.sift[:, index, -1].mean())
        for index in range(5)
        if means[index] >= 0.92 * max(means)
    ]
    assert second.sift[:, chosen, -1].mean() == pytest.approx(max(others))


def test_of_equal_settings_the_first_is_chosen_and_of_sufficient_counts_the_smallest() -> None:
    rng = np.random.default_rng(0)
    level = rng.random((40, 1, 1))
    saturated = level + np.array([0.0, 0.3, 0.5, 0.5, 0.5]) + np.zeros((1, 3, 1))
    assert choose([Scores("", saturated, saturated[:, 0])]) == (0, 2)
    rising = level + np.array([0.0, 0.1, 0.2]) + np.zeros((1, 3, 1))
    assert choose([Scores("", rising, rising[:, 0])]) == (0, 2)
    assert choose([Scores("", rising[:1], rising[:1, 0])]) == (0, 2)


@given(st.lists(st.text(max_size=2), min_size=1, max_size=40), st.integers(0, 5), st.randoms())
def test_a_source_is_in_one_fold_whatever_the_order(sources: list[str], seed: int, rng) -> None:
    folds = fold_numbers(sources, seed).tolist()
    fold_of = dict(zip(sources, folds, strict=True))
    assert [fold_of[source] for source in sources] == folds
    sizes = [list(fold_of.values()).count(fold) for fold in range(FOLDS)]
    assert max(sizes) - min(sizes) <= 1
    shuffled = list(sources)
    rng.shuffle(shuffled)
    assert [fold_of[source] for source in shuffled] == fold_numbers(shuffled, seed).tolist()


def test_held_out_scores_are_those_of_settings_chosen_on_the_other_folds() -> None:
    rng = np.random.default_rng(1)
    kinds = [scores_of(rng, 37, counts=3), scores_of(rng, 37, counts=3)]
    sources = [f"source {n % 23}" for n in range(37)]
    folds = fold_numbers(sources, 4)
    chosen, nearest = np.empty((2, 2, 37))
    for query in range(37):
        others = [n for n in range(37) if folds[n] != folds[query]]
        best, count = choose([Scores("", k.sift[others], k.nearest[others]) for k in kinds])
        for index, kind in enumerate(kinds):
            chosen[index, query] = kind.sift[query, best, count]
            nearest[index, query] = kind.nearest[query, count]
    for index, found in enumerate(cross_validate(kinds, sources, seed=4)):
        assert found.chosen.value == pytest.approx(chosen[index].mean())
        assert found.nearest.value == pytest.approx(nearest[index].mean())
        assert found.gain.value == pytest.approx((chosen - nearest)[index].mean())
        assert found.gain.low < found.gain.value < found.gain.high
        assert found.gain.clusters == 23


def test_settings_that_are_equally_good_show_no_gain_on_held_out_queries() -> None:
    """The best of many equal settings seems to gain on the queries that chose it."""
    held_out, flattering = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sift, nearest = rng.normal(0.5, 0.1, (25, 30, 1)), rng.normal(0.5, 0.1, (25, 1))
        kinds = [Scores("", sift, nearest)]
        best, _ = choose(kinds)
        flattering.append(float((sift[:, best] - nearest).mean()))
        held_out.append(cross_validate(kinds, list(map(str, range(25))))[0].gain.value)
    error = np.std(held_out) / np.sqrt(len(held_out))
    assert abs(np.mean(held_out)) < 4 * error
    assert np.mean(flattering) > 5 * error
