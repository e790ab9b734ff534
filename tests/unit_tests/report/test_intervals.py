"""Test the coverage of the intervals, and that verdicts agree with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from langchain_sift.report.intervals import (
    Interval,
    correlation,
    judge,
    ratio_interval,
    ratio_standard_error,
    student_quantile,
)


def names(count: int) -> list[str]:
    return [str(n) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "least"), [(2, 0.89), (3, 0.89), (5, 0.89), (8, 0.87), (12, 0.89), (60, 0.89)]
)
def test_an_interval_covers_the_true_value_about_19_times_in_20(count: int, least: float) -> None:
    """Of 200 trials, 0.89 is four standard errors below 0.95. Resampling starts at 8 clusters."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        weights = rng.gamma(5, 1, count)
        values = 0.1 * weights + rng.normal(0, 0.3, count)
        result = ratio_interval(values.tolist(), weights.tolist(), names(count), seed=trial)
        hits += result.low <= 0.1 <= result.high
    assert hits / 200 >= least


def test_copies_of_an_observation_count_as_one_cluster() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.normal(1, 1, 20).tolist(), [1.0] * 20
    once = ratio_interval(values, weights, names(20))
    copied = ratio_interval(values * 5, weights * 5, names(20) * 5)
    assert copied.value == pytest.approx(once.value)
    assert copied.half_width == pytest.approx(once.half_width)
    apart = ratio_interval(values * 5, weights * 5, names(100))
    assert apart.half_width < 0.6 * once.half_width
    error = ratio_standard_error(values * 5, weights * 5, names(20) * 5)
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(20))


def test_one_observation_has_no_interval() -> None:
    interval = ratio_interval([2.0, 4.0], [1.0, 1.0], ["a", "a"])
    assert (interval.value, interval.clusters) == (3.0, 1)
    assert math.isnan(interval.low)
    assert judge("a", "b", "m", interval, prompts=2, lower_is_better=True).verdict == "cannot tell"


@pytest.mark.parametrize("count", range(2, 12))
def test_differences_of_one_sign_decide_where_a_sign_test_does(count: int) -> None:
    decides = binomtest(count, count).pvalue < 0.05
    for values in ([0.5] * count, [0.5 + 0.01 * number for number in range(count)]):
        interval = ratio_interval(values, [1.0] * count, names(count))
        found = judge("a", "b", "m", interval, prompts=count, lower_is_better=False, limit=1.0)
        assert found.interval.value == pytest.approx(np.mean(values))
        assert (found.verdict, found.too_few) == (
            ("better", False) if decides else ("cannot tell", True)
        )
    equal = ratio_interval([0.0] * count, [1.0] * count, names(count))
    assert (equal.low, equal.high) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "verdict"),
    [
        (-2, -1, True, "better"),
        (-2, -1, False, "worse"),
        (1, 2, True, "worse"),
        (1, 2, False, "better"),
        (-1, 2, True, "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero(
    low: float,
    high: float,
    lower_is_better: bool,  # noqa: FBT001
    verdict: str,
) -> None:
    interval = Interval((low + high) / 2, low, high, 30)
    result = judge("a", "b", "m", interval, prompts=30, lower_is_better=lower_is_better)
    assert result.verdict == verdict
    # Half the length is 1.5, the estimate 0.5: a third as long with nine times as many.
    assert result.prompts_needed == (270 if verdict == "cannot tell" else None)


@pytest.mark.parametrize("seed", range(40))
def test_an_interval_is_clipped_to_its_limit_and_few_sources_are_not_extrapolated(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    values = rng.integers(-1, 2, count).tolist()
    values[0] += values[0] == values[-1]  # equal ones may have no interval
    values[0] = values[0] if values[0] <= 1 else -1
    free = ratio_interval(values, [1.0] * count, names(count))
    result = judge("a", "b", "f1", free, prompts=count, lower_is_better=False, limit=1.0)
    interval = result.interval
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == free.low or free.low < interval.low == -1
    assert interval.high == free.high or free.high > interval.high == 1
    unlimited = judge("a", "b", "f1", free, prompts=count, lower_is_better=False)
    assert result.verdict == unlimited.verdict
    unsettled = result.verdict == "cannot tell"
    everything = (interval.low, interval.high) == (-1, 1)
    assert result.too_few is (unsettled and (count < 6 or everything))
    assert result.prompts_needed == (None if result.too_few else unlimited.prompts_needed)


def test_the_quantile_agrees_with_published_tables() -> None:
    tables = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 30: 2.0423, 1000: 1.9623}
    for degrees, value in tables.items():
        assert student_quantile(degrees) == pytest.approx(value, rel=2e-3)


def test_the_correlation_is_a_rank_correlation() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert correlation(x, [math.exp(v) for v in x], names(6)).value == pytest.approx(1.0)
    assert correlation(x, [-v for v in x], names(6)).value == pytest.approx(-1.0)
    tied = correlation([1, 1, 2, 3], [1, 2, 3, 3], names(4)).value
    assert tied == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3.5, 3.5])[0, 1])
    rng = np.random.default_rng(0)
    independent = correlation(rng.random(200).tolist(), rng.random(200).tolist(), names(200))
    assert independent.low < 0 < independent.high
    for count in (3, 4, 7):
        few = correlation(rng.random(count).tolist(), rng.random(count).tolist(), names(count))
        assert -1 <= few.low <= few.high <= 1
    assert math.isnan(correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], names(3)).value)
