"""Test the statistics of the summaries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from langchain_sift.report.rows import Row
from langchain_sift.report.summaries import summarize


def row(method: str, prompt: int, bits: float, **other: object) -> Row:
    settings = {"protocol": "document", "group": "all", "bytes": 10 * prompt, **other}
    return Row(method=method, prompt=str(prompt), bits=bits, **settings)


def rows_of(ratios: list[float]) -> list[Row]:
    base = [row("base", n, 20.0 * n) for n in range(1, len(ratios) + 1)]
    return base + [row("x", n, 20.0 * n * ratio) for n, ratio in enumerate(ratios, start=1)]


def test_bits_per_byte_and_percent_of_base_are_ratios_of_sums() -> None:
    summaries = summarize(rows_of([0.5, 0.7, 0.9]))
    bits, base_bits, count = 20 * (0.5 + 2 * 0.7 + 3 * 0.9), 20 * 6, 60
    assert summaries["x"].bits_per_byte == pytest.approx(bits / count)
    assert summaries["base"].bits_per_byte == pytest.approx(base_bits / count)
    assert summaries["x"].percent_of_base == pytest.approx(100 * bits / base_bits)
    assert summaries["base"].percent_of_base == 100.0
    assert summaries["base"].standard_error == 0.0


def test_the_standard_error_is_about_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    ratios = rng.normal(0.8, 0.1, size=200).clip(0.3, 1.2).tolist()
    error = summarize(rows_of(ratios))["x"].standard_error
    base = 20.0 * np.arange(1, 201)
    bits = base * np.array(ratios)
    draws = rng.integers(0, 200, size=(2000, 200))
    resampled = 100 * bits[draws].sum(axis=1) / base[draws].sum(axis=1)
    assert error == pytest.approx(resampled.std(), rel=0.1)


def test_failed_rows_are_counted_and_excluded() -> None:
    rows = [*rows_of([0.5, 0.5]), row("x", 3, math.nan, failure="ValueError: no")]
    summary = summarize(rows)["x"]
    assert (summary.prompts, summary.failures) == (2, 1)
    assert summary.percent_of_base == pytest.approx(50.0)


def test_perplexity_scores_and_costs_are_means_over_prompts() -> None:
    rows = [
        row("x", 1, 30.0, tokens=10, scores={"f1": 1.0}, tokens_training=100, peak_memory=5),
        row("x", 2, 10.0, tokens=10, scores={"f1": 0.5}, tokens_training=300, peak_memory=9),
        row("x", 3, math.nan, scores={"f1": 0.0}),
    ]
    summary = summarize(rows)["x"]
    assert summary.perplexity == pytest.approx(2.0 ** (40 / 20))
    assert summary.scores == {"f1": 0.5}
    assert summary.score_errors["f1"] == pytest.approx(0.5 / math.sqrt(3))
    assert summary.tokens_training == pytest.approx(400 / 3)
    assert summary.peak_memory == 9
    assert summary.prompts == 3
