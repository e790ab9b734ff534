"""What the README shows, runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from langchain_sift.serving import Tenant, Tenants
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.serving.requests import ChatCompletionRequest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    assert len(blocks[0].strip().splitlines()) <= 10
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    learned = names["message"].response_metadata["ttft"]  # type: ignore[attr-defined]
    assert len(learned["losses"]) == 2
    assert learned["fallback"] is None


def test_every_file_it_names_is_there() -> None:
    linked = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_every_module_is_in_the_tree() -> None:
    modules = [
        path.name for path in (ROOT / "langchain_sift").rglob("*.py") if path.name != "__init__.py"
    ]
    assert [name for name in modules if name not in README] == []


def test_the_commands_it_gives_are_targets_of_make() -> None:
    targets = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_its_results_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "demo.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["commit"] in README
    assert found["date"] in README
    rows = re.findall(
        r"^\| (document|continuation) \| `([a-z:]+)` \| (.*) \|$", README, re.MULTILINE
    )
    assert len(rows) == sum(len(p["methods"]) for p in found["protocols"].values())
    for name, method, cells in rows:
        protocol = found["protocols"][name]
        parts = [protocol["methods"][method]]
        parts += [group["methods"][method] for group in protocol["groups"].values()]
        shown = [f"{p['percent_of_base']:.1f} ± {p['standard_error']:.1f}" for p in parts]
        shown += [f"{parts[0]['seconds']:.2f}", f"{parts[0]['distinct_documents']:.1f}"]
        assert cells.split(" | ") == shown, (name, method)


def test_its_retrieval_results_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "candidate_search_rag.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["commit"] in README
    rows = re.findall(r"^\| ((?:one|two) questions?.*?) \| (.*) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == list(found["results"])
    for name, cells in rows:
        methods = found["results"][name]
        shown = ["nearest neighbours", "MMR", "SIFT, nearest, λ' = 0.01", "SIFT, nearest, λ' = 1.0"]
        expected = [f"{100 * methods[method]['answered']:.1f}" for method in shown]
        assert cells.split(" | ") == expected, name


def test_its_speeds_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "speed.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["commit"] in README
    rows = re.findall(r"^\| (.*?) \| ([\d.,]+) ms \| (.*?) ([\d.,]+) ms \|$", README, re.MULTILINE)
    medians = {
        f"{benchmark['median_milliseconds']:,.1f}"
        for group in found["groups"].values()
        for benchmark in group.values()
    }
    assert rows
    assert {ours for _, ours, _, _ in rows} | {theirs for *_, theirs in rows} <= medians


def test_its_speeds_of_the_engine_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "engine.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert f"{found['date']}, commit {found['commit']}" in README
    rows = dict(
        re.findall(r"^\| (an adapter.*?|the .*?) \| (.*s \| .*s) \|$", README, re.MULTILINE)
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
    assert list(rows.values()) == [*expected, shown("on 10 documents each", *ways)]


def test_its_tenants_are_a_file_that_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    file = tmp_path / "tenants.toml"
    file.write_text(block, encoding="utf-8")
    (tenant,) = Tenants.load(file).members
    assert tenant == Tenant("acme", {"tenant": "acme"}, None, 8)


def test_the_request_that_it_shows_is_one_that_is_taken() -> None:
    (shown,) = re.findall(r"-d '(\{.*?\})'\n", README)
    asked = ChatCompletionRequest.model_validate_json(shown)
    assert asked.ttft == TTFTOptions(k=8)


def test_the_options_of_a_request_are_those_that_it_names() -> None:
    (item,) = re.findall(
        r"- \*\*`ttft` in a request\*\*(.*?)`ttft` in the answer", README, re.DOTALL
    )
    named = set(re.findall(r"`(\w+)`", item)) - {"extra_body"}
    assert named == set(TTFTOptions.model_fields)


def test_its_figures_of_the_endpoint_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "serving.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert f"{found['date']}, commit {found['commit']}" in README
    rows = re.findall(r"^\| (asked .*?) \| (.*) \|$", README, re.MULTILINE)
    expected = []
    for measured in (found["sustained"], found["burst"]):
        refusals, memory = measured["refusal_milliseconds"], measured["memory_mib"]
        expected.append(
            f"{measured['answered']} of {measured['asked']} | {refusals['p50']:.0f} ms "
            f"| {refusals['p99']:.0f} ms | {measured['p99_by_arithmetic']:.2f} "
            f"| {memory['first_third']:.0f} → {memory['last_third']:.0f} MiB"
        )
    assert [cells for _, cells in rows] == expected


def test_its_figures_of_ray_are_those_of_the_committed_file() -> None:
    file = ROOT / "tests" / "benchmarks" / "results" / "ray_serve.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert f"ray_serve.json), {found['date']}, commit {found['commit']}" in README
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
        assert shown in README, shown
