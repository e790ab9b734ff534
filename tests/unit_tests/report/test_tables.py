"""Test that formatted numbers keep their sign."""

from __future__ import annotations

import random

import pytest

from langchain_sift.report.intervals import Interval, judge
from langchain_sift.report.summaries import PERCENT_OF_BASE
from langchain_sift.report.tables import format_difference, format_setting, format_signed


def read(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def side(value: float) -> int:
    return (value > 0) - (value < 0)


def numbers(seed: int, count: int) -> list[float]:
    rng = random.Random(seed)
    drawn = [rng.choice((-1, 1)) * 10 ** rng.uniform(-9, 5) for _ in range(count)]
    return [0.0, -0.0, -0.03, 0.03, -0.05, 0.0005, *drawn]


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_a_formatted_number_keeps_its_sign(decimals: int) -> None:
    for value in numbers(decimals, 500):
        shown = read(format_signed(value, decimals))
        assert side(shown) == side(value), (value, shown)
        assert shown == pytest.approx(value, abs=0.51 * 10**-decimals)


def test_a_number_has_its_decimals_unless_it_rounds_to_0() -> None:
    signed = [format_signed(value, 1) for value in (-1.26, 0.06, 0.0, -0.0)]
    assert signed == ["−1.3", "0.1", "0.0", "0.0"]
    differences = [format_difference(v, PERCENT_OF_BASE) for v in (-0.03, 0.03, 1.26, 0.0)]
    assert differences == ["−0.03", "+0.03", "+1.3", "0.0"]


@pytest.mark.parametrize("metric", [PERCENT_OF_BASE, "f1"])
def test_a_verdict_agrees_with_the_formatted_interval(metric: str) -> None:
    ends = numbers(7, 600)
    for ends_of_interval in zip(ends[::2], ends[1::2], strict=True):
        low, high = sorted(ends_of_interval)
        interval = Interval((low + high) / 2, low, high, 30)
        difference = judge("a", "b", metric, interval, prompts=30, lower_is_better=False)
        interval = difference.interval
        shown = [read(format_difference(end, metric)) for end in (interval.low, interval.high)]
        excludes = shown[0] > 0 or shown[1] < 0
        assert excludes is (difference.verdict != "cannot tell"), (low, high, shown)
        assert (difference.verdict == "better") is (shown[0] > 0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "not set"), ([1, 2], "1, 2"), ({"a": "ä"}, '{"a": "ä"}'), (True, "True"), (0.5, "0.5")],
)
def test_a_setting_is_formatted_as_a_line(value: object, shown: str) -> None:
    assert format_setting(value) == shown
