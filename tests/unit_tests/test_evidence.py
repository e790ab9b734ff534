"""The tables of the evidence page come from its results, and its results from its rows."""

from __future__ import annotations

import importlib
import json
import math
import re
from dataclasses import astuple, replace
from pathlib import Path
from types import ModuleType

import pytest

from langchain_sift import FineTuneConfig
from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS, DEFAULT_SETTINGS_RBF

FOLDER = Path(__file__).parents[2] / "examples" / "evidence"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the sdist has no examples")


@pytest.fixture
def summarize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("summarize")


def test_the_tables_are_those_of_the_committed_results(summarize: ModuleType) -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    tables = summarize.all_tables(FOLDER)
    names = re.findall(r"^<!-- (?!end)(.*) -->$", page, flags=re.MULTILINE)
    assert set(names) == set(tables)
    for name in names:
        assert f"<!-- {name} -->\n{tables[name]}\n<!-- end -->" in page, name


def test_the_page_on_retrieval_is_that_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    page = importlib.import_module("retrieval_page")
    names = ("retrieval.json", "answers.json", "training_kernels.json")
    results = (json.loads((FOLDER / name).read_text(encoding="utf-8")) for name in names)
    assert (FOLDER / "retrieval.md").read_text(encoding="utf-8") == page.render(*results)


def test_the_page_on_architectures_is_that_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    page = importlib.import_module("architectures_page")
    results = json.loads((FOLDER / "architectures.json").read_text(encoding="utf-8"))
    assert (FOLDER / "architectures.md").read_text(encoding="utf-8") == page.render(results)
    for found in results["real"].values():
        assert found["equal_alone"] == found["equal_in_batches_of_8"] == found["prompts"]


def test_the_tables_of_real_models_are_those_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    page = importlib.import_module("real_models_page")
    results = json.loads((FOLDER / "real_models.json").read_text(encoding="utf-8"))
    text = (FOLDER / "real_models.md").read_text(encoding="utf-8")
    tables = page.tables(results)
    assert set(re.findall(r"^<!-- (?!end)(.*) -->$", text, flags=re.MULTILINE)) == set(tables)
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in text, name


def test_the_default_recipe_is_near_the_best_of_the_measured_ones() -> None:
    results = json.loads((FOLDER / "real_models.json").read_text(encoding="utf-8"))
    defaults = [each for each in results["recipes"] if each["learning_rate"] == "default"]
    assert {each["model"] for each in defaults} == {"SmolLM2-135M-Instruct", "Gemma 3 270M"}
    config = FineTuneConfig()
    assert config.learning_rate is None
    for default in defaults:
        assert (default["rank"], default["alpha"]) == (config.lora_rank, config.lora_alpha)
        others = [each for each in results["recipes"] if each["model"] == default["model"]]
        for k, percent in default["percents"].items():
            assert percent <= min(each["percents"][k] for each in others) + 2


def test_the_default_noise_variance_is_near_the_best_of_the_measured_ones() -> None:
    results = json.loads((FOLDER / "real_models.json").read_text(encoding="utf-8"))
    defaults = [each for each in results["noise"] if each["method"] == "ttft:sift"]
    assert len(defaults) == len({each["model"] for each in results["noise"]}) > 1
    for default in defaults:
        others = [each for each in results["noise"] if each["model"] == default["model"]]
        for k, percent in default["percents"].items():
            assert percent <= min(each["percents"][k] for each in others) + 1


@pytest.mark.slow
def test_the_results_of_real_models_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    page = importlib.import_module("real_models_page")
    committed = json.loads((FOLDER / "real_models.json").read_text(encoding="utf-8"))
    files = {**page.FILES, page.FIRST: page.FIRST_FILE}
    assert set(committed["text"]) == set(files)
    for model, results in committed["text"].items():
        rows = page.read_rows(FOLDER / files[model])
        assert json.loads(json.dumps(page.text_results(rows))) == results
        assert all(" " not in row.source and row.answer is None for row in rows)
    for stage, results in committed["stages"].items():
        assert json.loads(json.dumps(page.stage_results(stage))) == results
    assert committed["auto checks"] == json.loads(json.dumps(page.auto_checks()))
    assert committed["order tuning"] == json.loads(json.dumps(page.order_results()))
    last, first = page.read_questions(), page.read_questions(page.FIRST_ROWS)
    assert committed["order questions"] == page.order_of_questions(last, first)
    assert committed["questions, most informative first"] == page.question_results(first)
    assert committed["noise"] == json.loads(json.dumps(page.noise_results()))
    assert committed["sizes"] == json.loads(json.dumps(page.size_results()))
    assert committed["questions"] == page.question_results(page.read_questions())
    further = page.read_questions(page.FURTHER_ROWS)
    assert not {row["prompt"] for row in further} & {row["prompt"] for row in last}
    assert committed["further questions"] == page.further_results(last, further)
    for name, file in (
        ("learned", page.LEARNED_ROWS),
        ("learned, Gemma 3 270M", page.LEARNED_GEMMA_ROWS),
        ("learned, most informative first", page.LEARNED_FIRST_ROWS),
    ):
        assert committed[name] == page.learned_results(page.read_questions(file))
    assert committed["epochs"] == page.epochs_of_examples()
    assert committed["demo"] == page.demo_results()


def test_the_defaults_of_retrieval_are_those_of_the_page() -> None:
    measured = json.loads((FOLDER / "retrieval.json").read_text(encoding="utf-8"))
    assert measured["default"] == list(astuple(DEFAULT_SETTINGS))
    assert measured["rbf"] == list(astuple(DEFAULT_SETTINGS_RBF))


@pytest.mark.slow
def test_the_committed_results_are_those_of_the_rows(summarize: ModuleType) -> None:
    committed = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    reports = summarize.by_domain(summarize.read_rows(summarize.ROWS))
    others = summarize.other_settings()
    found = json.loads(json.dumps(summarize.summarize(reports, others)))
    assert found == {name: committed[name] for name in found}


@pytest.mark.slow
def test_no_row_has_a_word_of_a_document(summarize: ModuleType) -> None:
    files = [summarize.ROWS, *(FOLDER / name for name in summarize.SETTINGS.values())]
    assert all(file.exists() for file in files)
    for row in (row for file in files for row in summarize.read_rows(file)):
        assert row.answer is None
        assert all(" " not in document.id for document in row.chosen)
        assert " " not in row.source


@pytest.mark.slow
def test_rows_are_read_unchanged(summarize: ModuleType, tmp_path: Path) -> None:
    rows = [r for r in summarize.read_rows(summarize.ROWS) if r.group == "nih_grants"][:200]
    other = [
        replace(
            row, method="ttft:other", chosen=row.chosen[::-1], used_indices=row.used_indices[1:]
        )
        for row in rows
        if row.method == "ttft:sift"
    ]
    path = tmp_path / "rows.jsonl.gz"
    summarize.write_rows(path, [*other, *rows])
    back = {row.key: row for row in summarize.read_rows(path)}
    assert len(back) == len(rows) + len(other)
    for row in (*rows, *other):
        found = back[row.key]
        assert [document.id for document in found.chosen] == [d.id for d in row.chosen]
        assert found.used_indices == row.used_indices
        assert math.isclose(found.bits, row.bits)
        assert (found.source, found.tokens, found.distinct) == (
            row.source,
            row.tokens,
            row.distinct,
        )
    summarize.write_rows(tmp_path / "again.gz", back.values())
    assert (tmp_path / "again.gz").read_bytes() == path.read_bytes()
