"""Test that all files of a report are written, linked and reproducible."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace

import pytest

from langchain_sift.report.file_names import report_files
from langchain_sift.report.files import write_report
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row


def example(seed=0):
    """Return a report of two protocols, two groups, two ks, a failure and a leak."""
    rng = random.Random(seed)
    rows = []
    for protocol in ("document", "qa"):
        for i in range(6):
            for method, k in [(BASE, 0), ("rag:nearest", 1), ("rag:nearest", 3), ("ttft:sift", 1),
                              ("ttft:sift", 3)]:  # fmt: skip
                asks = protocol == "qa"
                chosen = tuple(
                    ChosenDocument(f"d{rng.randrange(9)}", 0.1, rng.random() / (n + 1), 1)
                    for n in range(k)
                )
                rows.append(
                    Row(
                        protocol,
                        f"p{i}",
                        "ab"[i % 2],
                        method,
                        k,
                        bits=math.nan if asks else rng.uniform(50, 200),
                        bytes=100,
                        tokens=25,
                        answer="so" if asks else None,
                        scores={"f1": rng.random()} if asks else {},
                        chosen=chosen,
                        used_indices=tuple(range(k)),
                        prior_variance=1.0 if k else math.nan,
                    )
                )
    rows[4] = replace(rows[4], bits=math.nan, failure="too large")
    return Report(
        rows=tuple(rows),
        settings={"ks": (1, 3), "seed": None},
        texts={f"d{n}": f"Text {n}. \ud800" for n in range(9)},
        prompt_texts={f"p{i}": f"Prompt {i} \ud800" for i in range(6)},
        leaks={"p2": "an exact copy in d1"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "folder"
    write_report(example(), path)
    return path


@pytest.mark.slow
def test_all_files_are_written(folder):
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    document = [f"document-{n}" for n in ("groups", "documents", "seconds", "variance", "sigma")]
    answers = [f"qa-{n}" for n in ("groups", "documents", "seconds", "variance")]
    plots = {f"plots/{name}.{end}" for name in (*document, *answers) for end in ("svg", "png")}
    assert written == {"report.html", "report.md", "results.json", *plots}
    assert written == {*report_files(["document"]), *report_files(["qa"])} - {
        f"plots/qa-sigma.{end}" for end in ("svg", "png")
    }


@pytest.mark.slow
def test_the_report_is_returned_with_its_path(tmp_path):
    report = example()
    assert write_report(report, tmp_path) == replace(report, path=tmp_path / "report.html")


def test_the_links_of_the_markdown_exist(folder):
    text = (folder / "report.md").read_text("utf-8")
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(links) == 9
    assert all((folder / link).is_file() for link in links)


def test_the_results_are_plain_json_and_agree_with_the_rows(folder):
    def refuse(constant):
        raise AssertionError(constant)

    results = json.loads((folder / "results.json").read_text("utf-8"), parse_constant=refuse)
    report = example()
    assert results["report"] == "report.html"
    assert results["settings"] == {"ks": [1, 3], "seed": None}
    assert results["leaks"] == {"p2": "an exact copy in d1"}
    assert results["ks"] == [1, 3]
    document, answers = results["protocols"]["document"], results["protocols"]["qa"]
    for k in (1, 3):
        for method in ("rag:nearest", "ttft:sift"):
            rows = [r for r in report.rows if r.protocol == "document" and r.method == method
                    and r.k == k and not r.failure]  # fmt: skip
            base = {r.prompt: r.bits for r in report.rows
                    if r.protocol == "document" and r.method == BASE}  # fmt: skip
            percent = 100 * sum(r.bits for r in rows) / sum(base[r.prompt] for r in rows)
            summary = document["by_k"][str(k)][method]
            assert summary["percent_of_base"] == pytest.approx(percent)
            assert summary["prompts"] == len(rows)
            f1 = [r.scores["f1"] for r in report.rows if r.protocol == "qa" and r.method == method
                  and r.k == k]  # fmt: skip
            mean = answers["by_k"][str(k)][method]["scores"]["f1"]
            assert mean == pytest.approx(sum(f1) / len(f1))
    assert document["methods"] == document["by_k"]["3"]
    assert document["methods"]["ttft:sift"]["failures"] == 1
    assert answers["methods"][BASE]["bits_per_byte"] is None
    assert (document["metrics"], answers["metrics"]) == (["percent_of_base"], ["f1"])
    assert {g: v["prompts"] for g, v in document["groups"].items()} == {"a": 3, "b": 3}
    pair = document["differences"]["percent_of_base"][-1]
    assert {pair["first"], pair["second"]} == {"rag:nearest", "ttft:sift"}
    assert set(pair["interval"]) == {"value", "low", "high", "clusters"}
    assert set(document["correlations"]) == {"rag:nearest", "ttft:sift"}
    text = (folder / "report.md").read_text("utf-8")
    assert document["verdict"] in text


@pytest.mark.slow
def test_the_same_report_gives_the_same_files(folder, tmp_path):
    write_report(example(), tmp_path)
    write_report(example(), tmp_path)  # over the first
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_an_empty_report_is_written(tmp_path):
    write_report(Report(rows=()), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["protocols"] == {}


NAMES = (BASE, "rag:nearest", "ttft:sift", "ttft:sift:stopping_alpha=0.5", "both:hull", "rag:mine",
         "mine", "ttft:random")  # fmt: skip


def random_report(seed):
    """Return a report of rows in which any optional value may be missing."""
    rng = random.Random(seed)

    def maybe(value, otherwise=math.nan):
        return value if rng.random() < 0.7 else otherwise

    rows = {}
    for _ in range(rng.randrange(1, 60)):
        method = rng.choice(NAMES)
        k = 0 if method in {BASE, "mine"} else rng.choice((1, 2, 7))
        chosen = tuple(
            ChosenDocument(f"d{rng.randrange(4)}", maybe(rng.random()), maybe(rng.random()), 1)
            for _ in range(maybe(k, 0))
        )
        row = Row(
            rng.choice(("document", "qa")),
            f"p{rng.randrange(4)}",
            maybe("a", "b"),
            method,
            k,
            source=maybe("s", ""),
            bits=maybe(rng.uniform(-1, 1e4)),
            bytes=maybe(90, 0),
            tokens=maybe(9, 0),
            answer=maybe("so", None),
            scores=maybe({"f1": maybe(rng.random(), 0.0), "own": rng.uniform(-9, 9)}, {}),
            seconds_answering=maybe(rng.random(), 0.0),
            peak_memory=maybe(10**9, 0),
            redundancy=maybe(rng.random()),
            chosen=chosen,
            used_indices=tuple(range(len(chosen))),
            prior_variance=maybe(rng.random()),
            failure=maybe(None, "no"),
        )
        rows[row.key] = row
    return Report(rows=tuple(rows.values()), leaks=maybe({"p1": "a copy"}, {}))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_all_files_are_written_for_rows_with_missing_values(seed, tmp_path):
    written = write_report(random_report(seed), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["prompts"] > 0
    pages = [written.path.read_text("utf-8"), (tmp_path / "report.md").read_text("utf-8")]
    for text in pages:
        assert not re.search(r"\b(?:nan|inf|None)\b", text)
