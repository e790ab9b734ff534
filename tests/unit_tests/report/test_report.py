"""Summaries are the statistics that they are named after."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row
from langchain_sift.report.summaries import summarize


def row(method: str, prompt: int, bits: float, **other: object) -> Row:
    settings = {"protocol": "document", "group": "all", "bytes": 10 * prompt, **other}
    return Row(method=method, prompt=str(prompt), bits=bits, **settings)


def rows_of(ratios: list[float]) -> list[Row]:
    base = [row("base", n, 20.0 * n) for n in range(1, len(ratios) + 1)]
    return base + [row("x", n, 20.0 * n * ratio) for n, ratio in enumerate(ratios, start=1)]


def test_bits_per_byte_and_percent_are_ratios_of_sums() -> None:
    found = summarize(rows_of([0.5, 0.7, 0.9]))
    bits, base_bits, count = 20 * (0.5 + 2 * 0.7 + 3 * 0.9), 20 * 6, 60
    assert found["x"].bits_per_byte == pytest.approx(bits / count)
    assert found["base"].bits_per_byte == pytest.approx(base_bits / count)
    assert found["x"].percent_of_base == pytest.approx(100 * bits / base_bits)
    assert found["base"].percent_of_base == 100.0
    assert found["base"].standard_error == 0.0


def test_the_standard_error_is_about_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    ratios = rng.normal(0.8, 0.1, size=200).clip(0.3, 1.2).tolist()
    found = summarize(rows_of(ratios))["x"].standard_error
    base = 20.0 * np.arange(1, 201)
    bits = base * np.array(ratios)
    draws = rng.integers(0, 200, size=(2000, 200))
    resampled = 100 * bits[draws].sum(axis=1) / base[draws].sum(axis=1)
    assert found == pytest.approx(resampled.std(), rel=0.1)


def test_failed_rows_are_counted_and_left_out() -> None:
    rows = [*rows_of([0.5, 0.5]), row("x", 3, math.nan, failure="ValueError: no")]
    found = summarize(rows)["x"]
    assert (found.prompts, found.failures) == (2, 1)
    assert found.percent_of_base == pytest.approx(50.0)


def test_one_prompt_has_no_standard_error_and_json_says_null() -> None:
    report = Report(tuple(rows_of([0.5])), {})
    assert math.isnan(report.summary("document")["x"].standard_error)
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["methods"]["x"]["standard_error"] is None
    assert plain["prompts"] == 1


def test_json_is_one_object_or_one_for_each_protocol_and_group() -> None:
    one = tuple(rows_of([0.5, 0.6]))
    assert Report(one, path=Path("r.html")).to_json()["report"] == "r.html"
    assert "groups" not in Report(one, {}).to_json()
    other = tuple(replace(r, protocol="continuation", group=f"g{r.prompt}") for r in one)
    found = Report(one + other, {}).to_json()
    assert list(found["protocols"]) == ["document", "continuation"]
    groups = found["protocols"]["continuation"]["groups"]
    assert groups["g2"]["methods"]["x"]["percent_of_base"] == pytest.approx(60.0)


def test_distinct_documents_are_those_that_were_used() -> None:
    chosen = tuple(ChosenDocument(name, 0.1, 0.25, 1) for name in "aabc")
    found = row("x", 1, 2.0, chosen=chosen, used_indices=(0, 1, 3))
    assert (found.used, found.distinct, found.posterior_std) == (3, 2, 0.5)


def test_a_summary_is_of_the_largest_k_unless_another_is_asked_for() -> None:
    base = [row("base", n, 20.0 * n) for n in (1, 2)]
    shares = {1: 0.9, 5: 0.6}
    rows = [row("x", n, 20.0 * n * shares[k], k=k) for n in (1, 2) for k in shares]
    report = Report(tuple(base + rows))
    assert report.ks == (1, 5)
    assert report.summary("document")["x"].percent_of_base == pytest.approx(60.0)
    assert report.summary("document", k=1)["x"].percent_of_base == pytest.approx(90.0)
    assert report.prompts("document") == 2
    assert report.to_json()["by_k"]["1"]["x"]["prompts"] == 2


def test_perplexity_scores_and_costs_are_means_over_prompts() -> None:
    rows = [
        row("x", 1, 30.0, tokens=10, scores={"f1": 1.0}, tokens_training=100, peak_memory=5),
        row("x", 2, 10.0, tokens=10, scores={"f1": 0.5}, tokens_training=300, peak_memory=9),
        row("x", 3, math.nan, scores={"f1": 0.0}),
    ]
    found = summarize(rows)["x"]
    assert found.perplexity == pytest.approx(2.0 ** (40 / 20))
    assert found.scores == {"f1": 0.5}
    assert found.score_errors["f1"] == pytest.approx(0.5 / math.sqrt(3))
    assert found.tokens_training == pytest.approx(400 / 3)
    assert found.peak_memory == 9
    assert found.prompts == 3


def test_a_difference_is_of_the_prompts_that_both_were_measured_on() -> None:
    ratios = [0.5, 0.6, 0.7, 0.55, 0.65, 0.6]
    rows = rows_of(ratios)
    rows += [row("y", n, 20.0 * n * (ratio + 0.1)) for n, ratio in enumerate(ratios, start=1)]
    rows.append(row("y", 7, 99.0))
    report = Report(tuple(rows))
    found = report.difference("document", "x", "y")
    assert found is not None
    assert found.interval.value == pytest.approx(-10.0)
    assert (found.prompts, found.verdict) == (6, "better")
    turned = report.difference("document", "y", "x")
    assert turned is not None
    assert turned.verdict == "worse"
    same = report.difference("document", "x", "x")
    assert same is not None
    assert same.verdict == "cannot tell"
    assert report.difference("document", "x", "y", metric="f1") is None


def test_what_a_difference_can_be_depends_on_who_measures_it() -> None:
    rows = [
        row(method, n, math.nan, scores={"accuracy": value})
        for method, values in {"x": (1.0, 1.0), "y": (1.0, 0.0)}.items()
        for n, value in enumerate(values, start=1)
    ]
    ours = Report(tuple(rows)).difference("document", "x", "y", metric="accuracy")
    assert ours is not None
    assert (ours.interval.value, ours.interval.low, ours.interval.high) == (0.5, -1.0, 1.0)
    percent = [replace(r, scores={"accuracy": 100 * r.scores["accuracy"]}) for r in rows]
    yours = Report(tuple(percent), settings={"scorers": ["accuracy"]}).difference(
        "document", "x", "y", metric="accuracy"
    )
    assert yours is not None
    assert yours.interval.low < -1 < 1 < yours.interval.value == 50.0 < yours.interval.high


def test_uncertainty_goes_with_what_is_left() -> None:
    rows = [row("base", n, 100.0) for n in range(1, 9)]
    for n in range(1, 9):
        chosen = (ChosenDocument("a", 0.1, 0.01 * n * n, 1),)
        rows.append(row("x", n, 50.0 + n, chosen=chosen, used_indices=(0,)))
    found = Report(tuple(rows)).uncertainty_correlation("document", "x")
    assert found is not None
    assert found.value == pytest.approx(1.0)


def test_a_metric_that_tells_nothing_comes_last() -> None:
    rows = [row("x", n, 10.0 * n, scores={"exact": 0.0, "f1": 0.1 * n}) for n in (1, 2)]
    assert Report(tuple(rows)).metrics("document") == ("f1", "percent_of_base", "exact")
