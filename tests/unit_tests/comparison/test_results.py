"""Summaries are the statistics that they are named after."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from langchain_sift.comparison.results import ChosenDocument, Report, Row, summarize, write_row


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
    assert Report(one, {}, Path("r.html")).to_json()["report"] == "r.html"
    assert "groups" not in Report(one, {}).to_json()
    other = tuple(
        Row("continuation", r.prompt, f"g{r.prompt}", r.method, r.bits, r.bytes) for r in one
    )
    found = Report(one + other, {}).to_json()
    assert list(found["protocols"]) == ["document", "continuation"]
    groups = found["protocols"]["continuation"]["groups"]
    assert groups["g2"]["methods"]["x"]["percent_of_base"] == pytest.approx(60.0)


def test_distinct_documents_are_those_that_were_used(tmp_path: Path) -> None:
    chosen = tuple(ChosenDocument(name, "", 0.1, 0.5, 1) for name in "aabc")
    found = row("x", 1, 2.0, chosen=chosen, used_places=(0, 1, 3))
    assert (found.used, found.distinct) == (3, 2)
    write_row(tmp_path / "rows.jsonl", found)
    write_row(tmp_path / "rows.jsonl", row("y", 1, math.nan))
    first, second = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert [document["id"] for document in first["chosen"]] == list("aabc")
    assert second["bits"] is None
