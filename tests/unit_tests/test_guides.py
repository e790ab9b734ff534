"""Run the guides and compare their numbers with the committed result files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner
from unit_tests.guides import (
    EXAMPLES,
    GUIDES,
    ROOT,
    commands,
    guide,
    result,
    run_python,
    text_of,
)

from langchain_sift.cli import app
from langchain_sift.serving import Tenant, Tenants
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.serving.requests import ChatCompletionRequest

TEXTS = {path.stem.partition("_")[2]: text_of(path) for path in GUIDES}


def test_there_is_a_guide_for_each_topic_in_reading_order() -> None:
    assert [path.stem for path in GUIDES] == [
        "01_retrieve",
        "02_learn",
        "03_compare",
        "04_calibrate",
        "05_serve",
        "06_cluster",
    ]


@pytest.mark.parametrize("topic", TEXTS)
def test_every_linked_file_exists(topic: str) -> None:
    linked = re.findall(r"\]\((?!https?://|#)([^)]+)\)", TEXTS[topic])
    assert linked
    assert [path for path in linked if not (EXAMPLES / path).exists()] == []


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(guide("retrieve"), as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )
    nearest, sift = (
        re.findall(r"nih_grants-\d+", part) for part in printed.partition("\nsift\n")[::2]
    )
    assert len(nearest) == 5
    assert nearest[0] == sift[0]  # a first choice without any knowledge is the nearest neighbour
    assert nearest != sift[:5]


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["learn", "compare", "cluster"])
def test_the_python_code_runs(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = run_python(TEXTS[topic], topic)
    if topic == "learn":
        message: Any = names["message"]
        assert message.response_metadata["ttft"]["fallback"] is None


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["compare", "calibrate"])
def test_the_commands_run(topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    build = str(tmp_path / "build")
    for words in commands(TEXTS[topic].replace("build/", f"{build}/")):
        assert words[0] == "langchain-sift"
        ran = CliRunner().invoke(app, words[1:])
        assert ran.exit_code == 0, (words, ran.output)
    if topic == "calibrate":
        run_python(TEXTS[topic].replace("build/", f"{build}/"), topic)
    else:
        assert (tmp_path / "build" / "report" / "report.html").exists()


def test_the_results_of_the_demo_are_those_of_the_committed_file() -> None:
    found = result("demo.json")
    assert found["commit"] in TEXTS["compare"]
    assert found["date"] in TEXTS["compare"]
    rows = re.findall(
        r"^\| (document|continuation) \| `([a-z:]+)` \| (.*) \|$", TEXTS["compare"], re.MULTILINE
    )
    assert len(rows) == sum(len(p["methods"]) for p in found["protocols"].values())
    for name, method, cells in rows:
        protocol = found["protocols"][name]
        parts = [protocol["methods"][method]]
        parts += [group["methods"][method] for group in protocol["groups"].values()]
        shown = [f"{p['percent_of_base']:.1f} ± {p['standard_error']:.1f}" for p in parts]
        shown += [f"{parts[0]['seconds']:.2f}", f"{parts[0]['distinct_documents']:.1f}"]
        assert cells.split(" | ") == shown, (name, method)


def test_the_scores_after_learning_are_those_of_the_committed_files() -> None:
    before, after = (
        result(file)["protocols"]["qa"]["methods"]["rag:sift"]["scores"]["f1"]
        for file in ("handbook.json", "handbook_learned.json")
    )
    text = f"RAG with SIFT has F1 {after:.2f} in place of {before:.2f}"
    assert text in " ".join(TEXTS["compare"].split())


def test_the_results_of_retrieval_are_those_of_the_committed_file() -> None:
    found = result("candidate_search_rag.json")
    assert found["commit"] in TEXTS["retrieve"]
    for name in ("two questions, two vectors", "two questions, one vector"):
        answered = found["results"][name]["SIFT, nearest, λ' = 1.0"]["answered"]
        assert f"{100 * answered:.1f} %" in TEXTS["retrieve"], name


def test_the_speeds_of_retrieval_are_those_of_the_committed_file() -> None:
    found = result("speed.json")
    assert found["commit"] in TEXTS["retrieve"]
    rows = re.findall(
        r"^\| (.*?) \| ([\d.,]+) ms \| (.*?) ([\d.,]+) ms \|$", TEXTS["retrieve"], re.MULTILINE
    )
    medians = {
        f"{benchmark['median_milliseconds']:,.1f}"
        for group in found["groups"].values()
        for benchmark in group.values()
    }
    assert rows
    assert {ours for _, ours, _, _ in rows} | {theirs for *_, theirs in rows} <= medians


def test_the_speeds_of_the_engine_are_those_of_the_committed_file() -> None:
    found = result("engine.json")
    assert f"{found['date']}, commit {found['commit']}" in TEXTS["learn"]
    rows = re.findall(
        r"^\| (?:an adapter|the ).*? \| (.*s \| .*s) \|$", TEXTS["learn"], re.MULTILINE
    )
    ways = ("peft loop", "one by one", "together")

    def shown(work: str, *ways: str) -> str:
        cells = []
        for dtype in ("bfloat16", "float32"):
            name = f"train 16 prompts {work}, torch.{dtype}"
            medians = [
                benchmark["median_milliseconds"] / 1000
                for way in ways
                for key, benchmark in found["groups"][name].items()
                if f"-{way}]" in key
            ]
            cells.append(", ".join(f"{seconds:.1f}" for seconds in medians) + " s")
        return " | ".join(cells)

    expected = [shown("and answer 32 tokens", way) for way in ways]
    assert rows[:4] == [*expected, shown("on 10 documents each", *ways)]


def test_the_speeds_of_a_real_model_are_those_of_the_committed_file() -> None:
    found = result("training_step.json")
    _, _, text = TEXTS["learn"].partition("(../tests/benchmarks/results/training_step.json)")
    assert text.startswith(f", {found['date']}, commit {found['commit']}")
    rows = re.findall(r"^\| (?:an adapter|the ).*", text, re.MULTILINE)
    cells = [re.findall(r"\| ([\d.]+) s", row) for row in rows]
    many = found["requests"]["8 prompts"]["seconds"]
    alone = found["requests"]["1 prompt"]["seconds"]
    assert cells == [
        [f"{many['PEFT loop']:.1f}", f"{alone['PEFT loop']:.1f}"],
        [f"{many['one by one']:.1f}", f"{alone['alone']:.1f}"],
        [f"{many['together']:.1f}"],
    ]


def test_the_tenants_file_can_be_loaded(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXTS["serve"], flags=re.DOTALL)
    file = tmp_path / "tenants.toml"
    file.write_text(block, encoding="utf-8")
    (tenant,) = Tenants.load(file).members
    assert tenant == Tenant("acme", {"tenant": "acme"}, None, 8)


def test_the_request_of_curl_is_valid() -> None:
    (shown,) = re.findall(r"-d '(\{.*?\})'\n", TEXTS["serve"])
    asked = ChatCompletionRequest.model_validate_json(shown)
    assert asked.ttft == TTFTOptions(k=2)


def test_every_option_of_a_request_is_named() -> None:
    (item,) = re.findall(
        r"^`ttft` in a request's body (.*?)\n\n", TEXTS["serve"], re.DOTALL | re.MULTILINE
    )
    named = set(re.findall(r"`(\w+)`", item)) - {"extra_body"}
    assert named == set(TTFTOptions.model_fields)


def test_the_figures_of_the_endpoint_are_those_of_the_committed_file() -> None:
    found = result("serving.json")
    assert f"{found['date']}, commit {found['commit']}" in TEXTS["serve"]
    rows = re.findall(r"^\| ((?:for two|all at).*?) \| (.*) \|$", TEXTS["serve"], re.MULTILINE)
    expected = []
    for measured in (found["sustained"], found["burst"]):
        refusals, memory = measured["refusal_milliseconds"], measured["memory_mib"]
        expected.append(
            f"{measured['answered']} of {measured['asked']} | {refusals['p50']:.0f} ms "
            f"| {refusals['p99']:.0f} ms | {measured['p99_by_arithmetic']:.2f} "
            f"| {memory['first_third']:.0f} → {memory['last_third']:.0f} MiB"
        )
    assert [cells for _, cells in rows] == expected


def test_the_figures_of_ray_are_those_of_the_committed_file() -> None:
    found = result("ray_serve.json")
    assert f"ray_serve.json), {found['date']}, commit {found['commit']}" in TEXTS["cluster"]
    linear = found["replicas, steps of a fixed duration"]["of linear"].values()
    faults = found["faults"]
    flood, killed, lost = (faults[name] for name in ("flood", "replica killed", "node lost"))
    times = (flood["refused in seconds, median"], flood["refused in seconds, most"])
    median, most = (f"{1000 * seconds:.0f} ms" for seconds in times)
    others = sum(killed["others"].values())
    for shown in (
        f"{', '.join(f'{share:.2f}' for share in linear)} of linear",
        f"| {faults['left']['steps after']} gradient steps more |",
        f"{flood['statuses']['503']} refused with 503 and `Retry-After`",
        f"after {median} (median), {most} (most)",
        f"fails after {killed['failed in seconds']:.2f} s with 500",
        f"{killed['others']['200']} of {others} others are answered",
        f"two replicas after {killed['two replicas answer after seconds']:.1f} s",
        f"{lost['last answers']['200']} answered, none twice",
        f"{lost['failed once, and asked again']} at the second attempt",
        f"longest pause {lost['longest pause, seconds']:.1f} s",
    ):
        assert shown in TEXTS["cluster"], shown
