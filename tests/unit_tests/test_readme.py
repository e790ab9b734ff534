"""Run the README's example and compare its numbers with the committed result files."""

from __future__ import annotations

import json
import re

import pytest
from unit_tests.guides import ROOT, result, run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_and_has_ten_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(block.strip().splitlines()) <= 10
    monkeypatch.chdir(ROOT)
    names = run_python(README, "README.md")
    query = "Rice grows in"
    nearest = names["store"].as_retriever(search_kwargs={"k": 2}).invoke(query)  # type: ignore[attr-defined]
    chosen = names["retriever"].invoke(query)  # type: ignore[attr-defined]
    assert {found.page_content for found in nearest} == set(names["texts"][:2])  # type: ignore[index]
    assert len(chosen) == 2
    assert names["texts"][2] in [found.page_content for found in chosen]  # type: ignore[index]


def test_it_is_short_and_the_formula_comes_early() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    (formula,) = (number for number, line in enumerate(lines, 1) if "(K_X + λ' I)⁻¹" in line)
    assert formula < 120


def test_every_linked_file_exists() -> None:
    linked = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_every_subpackage_is_in_the_tree() -> None:
    (tree,) = re.findall(r"```text\n(langchain_sift/.*?)```", README, flags=re.DOTALL)
    package = ROOT / "langchain_sift"
    subpackages = [path.parent.name + "/" for path in package.glob("*/__init__.py")]
    modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    assert [name for name in [*subpackages, *modules] if not re.search(rf"\b{name}", tree)] == []


def test_every_make_command_is_a_target() -> None:
    targets = re.findall(r"\bmake (\w+)", README)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_the_figures_of_a_real_model_are_those_of_the_committed_file() -> None:
    file = ROOT / "examples" / "evidence" / "real_models.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert f"{found['date']}, commit {found['commit']}" in " ".join(README.split())
    rows = re.findall(r"^\| `([a-z:]+)` \| [^|]* \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 5
    by_method = {
        each["method"]: each for each in found["questions"] if each["objective"] in {"", "text"}
    }
    for method, cells in rows:
        each = by_method[method]
        mean, low, high = each["difference"]
        apart = "" if method == "rag:sift" else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        shown = [str(each["questions"]), f"{each['contains']:.1f}", apart, f"{each['f1']:.3f}"]
        assert cells.split(" | ") == shown, method
    learned = next(each for each in found["learned"] if each["method"] == "learned-300")
    contains, f1 = learned["scores"]["contains"], learned["scores"]["f1"]
    apart = f"{contains[1]:+.1f} ({contains[2]:+.1f} to {contains[3]:+.1f})"
    shown = f"| {learned['questions']} | {contains[0]:.1f} | {apart} | {f1[0] / 100:.3f} |"
    assert f"after learning 300 other questions (`learn`) {shown}" in README
    for by_k in found["text"]["SmolLM2-135M-Instruct"]["means"].values():
        cells = [f"{of['mean']:.1f} ({of['low']:.1f} to {of['high']:.1f})" for of in by_k.values()]
        assert " | ".join(cells) in README


def test_the_answers_of_the_demo_are_those_of_the_committed_file() -> None:
    found = result("handbook.json")
    assert f"`{found['command']}`, {found['date']}, commit {found['commit']}" in README
    rows = re.findall(r"^\| [^|]* \(`([a-z:]+)`\) \| (.*) \|$", README, re.MULTILINE)
    learned = result("handbook_learned.json")
    assert f"`{learned['command']}`, {learned['date']}, commit {learned['commit']}" in README
    methods = found["protocols"]["qa"]["methods"]
    methods["learn"] = learned["protocols"]["qa"]["methods"]["rag:sift"]
    assert [method for method, _ in rows] == list(methods)
    for method, cells in rows:
        scores, errors = (methods[method][key] for key in ("scores", "score_errors"))
        shown = [f"{scores[name]:.2f} ± {errors[name]:.2f}" for name in ("contains", "f1")]
        assert cells.split(" | ") == shown, method


def test_the_figures_of_retrieval_are_those_of_the_committed_file() -> None:
    file = ROOT / "examples" / "evidence" / "retrieval.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    assert f"{found['date']}, commit {found['commit']}" in " ".join(README.split())
    collections = {
        "CISI": "cisi",
        "MultiHop": "multihop",
        "13 kinds of text": "13 kinds",
        "XQuAD": "xquad",
        "two questions in one vector": "xquad, two questions",
        "each chunk stored five times": "xquad, exact copies",
    }
    rows = re.findall(r"^\| ([^|:]*): [^|]* \| (0\..*) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == list(collections)
    for name, cells in rows:
        scores = [
            found["results"][model][collections[name]][method]["10"]["score"]
            for model in ("MiniLM", "mpnet")
            for method in ("nearest", "mmr", "sift")
        ]
        assert cells == " | ".join(f"{score:.3f}" for score in scores)
