"""Numbers are written such that their side of 0 is seen."""

from __future__ import annotations

import random

import pytest

from langchain_sift.report.intervals import Interval, judge
from langchain_sift.report.summaries import PERCENT_OF_BASE
from langchain_sift.report.tables import format_difference, format_signed


def read(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def side(value: float) -> int:
    return (value > 0) - (value < 0)


def numbers(seed: int, count: int) -> list[float]:
    rng = random.Random(seed)
    drawn = [rng.choice((-1, 1)) * 10 ** rng.uniform(-9, 5) for _ in range(count)]
    return [0.0, -0.0, -0.03, 0.03, -0.05, 0.0005, *drawn]


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_a_printed_number_is_on_the_side_of_0_of_the_true_one(decimals: int) -> None:
    for value in numbers(decimals, 500):
        shown = read(format_signed(value, decimals))
        assert side(shown) == side(value), (value, shown)
        assert shown == pytest.approx(value, abs=0.51 * 10**-decimals)


def test_a_number_that_does_not_round_to_0_has_its_decimals() -> None:
    assert [format_signed(value, 1) for value in (-1.26, 0.06, 0.0, -0.0)] == [
        "−1.3",
        "0.1",
        "0.0",
        "0.0",
    ]
    assert [format_difference(value, PERCENT_OF_BASE) for value in (-0.03, 0.03, 1.26, 0.0)] == [
        "−0.03",
        "+0.03",
        "+1.3",
        "0.0",
    ]


@pytest.mark.parametrize("metric", [PERCENT_OF_BASE, "f1"])
def test_a_verdict_agrees_with_the_interval_that_is_printed(metric: str) -> None:
    ends = numbers(7, 600)
    for one, other in zip(ends[::2], ends[1::2], strict=True):
        low, high = sorted((one, other))
        interval = Interval((low + high) / 2, low, high, 30)
        found = judge("a", "b", metric, interval, prompts=30, lower_is_better=False)
        shown = [
            read(format_difference(end, metric))
            for end in (found.interval.low, found.interval.high)
        ]
        excludes = shown[0] > 0 or shown[1] < 0
        assert excludes is (found.verdict != "cannot tell"), (low, high, shown)
        assert (found.verdict == "better") is (shown[0] > 0)
