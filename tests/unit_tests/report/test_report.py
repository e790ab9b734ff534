"""Test the differences, correlations and JSON of a report."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_sift.report.files import write_report
from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row
from langchain_sift.report.summaries import summarize


def row(method: str, prompt: int, bits: float, **other: object) -> Row:
    settings = {"protocol": "document", "group": "all", "bytes": 10 * prompt, **other}
    return Row(method=method, prompt=str(prompt), bits=bits, **settings)


def rows_of(ratios: list[float]) -> list[Row]:
    base = [row("base", n, 20.0 * n) for n in range(1, len(ratios) + 1)]
    return base + [row("x", n, 20.0 * n * ratio) for n, ratio in enumerate(ratios, start=1)]


def test_a_single_prompt_has_no_standard_error_and_json_contains_null() -> None:
    report = Report(tuple(rows_of([0.5])), {})
    assert math.isnan(report.summary("document")["x"].standard_error)
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["methods"]["x"]["standard_error"] is None
    assert plain["prompts"] == 1


def test_json_is_an_object_for_a_protocol_or_contains_an_object_for_each() -> None:
    rows = tuple(rows_of([0.5, 0.6]))
    assert Report(rows, path=Path("r.html")).to_json()["report"] == "r.html"
    assert "groups" not in Report(rows, {}).to_json()
    other = tuple(replace(r, protocol="continuation", group=f"g{r.prompt}") for r in rows)
    result = Report(rows + other, {}).to_json()
    assert list(result["protocols"]) == ["document", "continuation"]
    groups = result["protocols"]["continuation"]["groups"]
    assert groups["g2"]["methods"]["x"]["percent_of_base"] == pytest.approx(60.0)


def test_a_summary_is_for_the_largest_k_by_default() -> None:
    base = [row("base", n, 20.0 * n) for n in (1, 2)]
    shares = {1: 0.9, 5: 0.6}
    rows = [row("x", n, 20.0 * n * shares[k], k=k) for n in (1, 2) for k in shares]
    report = Report(tuple(base + rows))
    assert report.ks == (1, 5)
    assert report.summary("document")["x"].percent_of_base == pytest.approx(60.0)
    assert report.summary("document", k=1)["x"].percent_of_base == pytest.approx(90.0)
    assert report.prompts("document") == 2
    assert report.to_json()["by_k"]["1"]["x"]["prompts"] == 2


def test_a_difference_uses_the_prompts_measured_with_both_methods() -> None:
    ratios = [0.5, 0.6, 0.7, 0.55, 0.65, 0.6]
    rows = rows_of(ratios)
    rows += [row("y", n, 20.0 * n * (ratio + 0.1)) for n, ratio in enumerate(ratios, start=1)]
    rows.append(row("y", 7, 99.0))
    report = Report(tuple(rows))
    difference = report.difference("document", "x", "y")
    assert difference is not None
    assert difference.interval.value == pytest.approx(-10.0)
    assert (difference.prompts, difference.verdict) == (6, "better")
    turned = report.difference("document", "y", "x")
    assert turned is not None
    assert turned.verdict == "worse"
    same = report.difference("document", "x", "x")
    assert same is not None
    assert same.verdict == "cannot tell"
    assert report.difference("document", "x", "y", metric="f1") is None


def test_the_limit_of_a_difference_does_not_apply_to_custom_scorers() -> None:
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


def test_uncertainty_correlates_with_percent_of_base() -> None:
    rows = [row("base", n, 100.0) for n in range(1, 9)]
    for n in range(1, 9):
        chosen = (ChosenDocument("a", 0.1, 0.01 * n * n, 1),)
        rows.append(row("x", n, 50.0 + n, chosen=chosen, used_indices=(0,)))
    interval = Report(tuple(rows)).uncertainty_correlation("document", "x")
    assert interval is not None
    assert interval.value == pytest.approx(1.0)


def test_a_constant_metric_comes_last() -> None:
    rows = [row("x", n, 10.0 * n, scores={"exact": 0.0, "f1": 0.1 * n}) for n in (1, 2)]
    assert Report(tuple(rows)).metrics("document") == ("f1", "percent_of_base", "exact")


def test_only_used_documents_count_as_distinct() -> None:
    chosen = tuple(ChosenDocument(name, 0.1, 0.25, 1) for name in "aabc")
    used = row("x", 1, 2.0, chosen=chosen, used_indices=(0, 1, 3))
    assert (used.used, used.distinct, used.posterior_std) == (3, 2, 0.5)


@pytest.mark.slow
def test_summaries_and_findings_are_computed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []
    monkeypatch.setattr(
        "langchain_sift.report.report.summarize",
        lambda rows: calls.append(rows) or summarize(rows),
    )
    base = [row("base", n, 20.0 * n, group=f"g{n % 2}") for n in range(1, 7)]
    other = [row("x", n, 10.0 * n, group=f"g{n % 2}", k=k) for n in range(1, 7) for k in (1, 5)]
    report = Report((*base, *other))
    written = write_report(report, tmp_path)
    written.to_json()
    assert len(calls) == 4  # all prompts for two k, and two groups for the largest k
    assert written.findings is report.findings
    assert (written.path, report.path) == (tmp_path / "report.html", None)


@pytest.mark.parametrize("peak", [None, 0, 2**30])
def test_peak_memory_is_in_the_json_only_if_it_was_measured(peak: int | None) -> None:
    rows = [replace(r, peak_memory=peak) for r in rows_of([0.5, 0.6])]
    methods = Report(tuple(rows)).to_json()["methods"]
    assert {method.get("peak_memory") for method in methods.values()} == {peak or None}
    assert ("peak_memory" in methods["x"]) is bool(peak)


def test_answers_that_reasoning_left_no_room_for_are_noted() -> None:
    rows = (
        row("base", 1, 1.0, answer="", tokens_answer=8),
        row("base", 2, 1.0, answer="", tokens_answer=1),
        row("base", 3, 1.0, answer="yes", tokens_answer=8),
        row("base", 4, 1.0),
    )
    (note,) = Report(rows, {"max_tokens": 8}).notes
    assert note.startswith("1 of 3 answers are empty after 8 tokens")
    assert Report(rows[1:], {"max_tokens": 8}).notes == Report(rows, {}).notes == ()
