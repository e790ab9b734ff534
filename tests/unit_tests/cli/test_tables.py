"""The tables of a report fit into a terminal, and show what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langchain_sift.cli.tables import print_report
from langchain_sift.report.report import Report
from langchain_sift.report.rows import ChosenDocument, Row

SCORES = {"ndcg": 0.5, "recall": 0.25, "mrr": 1.0, "hit": 1.0}
INTENTS = {"alpha_ndcg": 0.5, "intent_recall": 0.75}


def report(scores: dict[str, float], counts: dict[str, int], sources: int | None = None) -> Report:
    rows = [
        Row(
            "retrieval",
            f"p{n}",
            "all",
            method,
            10,
            scores=scores,
            seconds_retrieval=0.0123,
            redundancy=0.25,
            chosen=tuple(ChosenDocument(f"d{i}", 0.1, 0.5, 1) for i in range(count)),
            used_indices=tuple(range(count)),
            sources=sources,
            prior_variance=1.0,
        )
        for method, count in counts.items()
        for n in range(3)
    ]
    return Report(tuple(rows), {"notes": ["2 of 9 relevant documents are not in the store."]})


def shown(report: Report, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_report(report)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("scores", [SCORES, INTENTS | SCORES])
@pytest.mark.parametrize("counts", [{"nearest": 10, "sift:kernel=rbf:length_scale=0.35": 10},
                                    {"nearest": 10, "own": 4}])  # fmt: skip
def test_scores_of_documents_fit_into_a_terminal(
    scores: dict[str, float],
    counts: dict[str, int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(report(scores, counts, sources=3), capsys)
    table = [line for line in lines if not line.startswith("{")]
    assert max(map(len, table)) <= 80
    (nearest,) = [line.split() for line in table if line.startswith(" nearest")]
    assert {f"{value:.3f}" for value in scores.values()} <= {*nearest}
    assert ("12.3" in nearest) is (scores is SCORES)
    assert ("10.0" in nearest) is ("own" in counts)
    assert ("0.25" in nearest) is (scores is SCORES or "own" not in counts)
    assert any(line.startswith("note: 2 of 9 relevant") for line in table)


@pytest.mark.parametrize("width", [80, 200])
def test_scores_of_answers_fit_into_a_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["judged_correct", "exact_match", "f1", "contains", "accuracy", "accuracy_norm"]
    scores = {name: n / 10 for n, name in enumerate([*names, "judged_faithful"])}
    rows = [
        Row("qa", f"p{n}", "all", m, scores=scores, bits=9.5, bytes=4, seconds_answering=1.25)
        for m in ("base", "rag:sift")
        for n in range(3)
    ]
    lines = shown(Report(tuple(rows)), capsys)
    table = [line for line in lines if not line.startswith("{")]
    assert max(map(len, table)) <= width
    for method in ("base", "rag:sift"):
        (cells,) = [line.split() for line in table if line.startswith(f" {method} ")]
        assert cells[1:6] == ["0.000", "0.100", "0.200", "0.300", "0.400"]
        assert ("1.25" in cells) is ("2.375" in cells) is (width == 200)
    assert any("the report has more: " in line for line in table) is (width == 80)


def test_sources_are_shown_if_documents_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"nearest": 10, "sift": 10}
    assert any("sources" in line for line in shown(report(SCORES, counts, 3), capsys)[:6])
    assert not any("sources" in line for line in shown(report(SCORES, counts), capsys)[:6])


def test_the_first_answers_are_shown_as_a_conversation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        Row("qa", f"p{n}", "all", method, answer=text, scores={"contains": score})
        for n in range(4)
        for method, text, score in (
            ("base", "[bold]no idea[/] " * 40, 0.0),
            ("rag:sift", "in autumn", 1.0),
        )
    ]
    texts = {f"p{n}": f"When is harvest {n}?" for n in range(4)}
    lines = shown(Report(tuple(rows), prompt_texts=texts, references={"p0": "autumn"}), capsys)
    assert [line for line in lines if line.startswith("Question")] == [
        f"Question  When is harvest {n}?" for n in range(3)
    ]
    assert "Expected  autumn" in lines
    assert any("rag:sift" in line and "✓" in line and "in autumn" in line for line in lines)
    first = next(line for line in lines if "base" in line and "✗" in line)
    assert "[bold]no idea[/]" in first  # the text of a model is no markup
    assert max(len(line) for line in lines if not line.startswith(("{", "report"))) <= 80


def test_names_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    groups, methods, metric = ["src/[/slug]/page.tsx", "[math]"], ["[red]", ":cat:"], "[b]"
    rows = [
        Row("qa", f"{group}{n}", group, method, answer=f"{method} answers", scores={metric: 0.5})
        for group in groups
        for method in methods
        for n in range(2)
    ]
    path = Path("o/run[old]/:dog:/report.html")
    text = "\n".join(shown(Report(tuple(rows), path=path), capsys))
    for name in (*groups, *methods, metric, f"report: {path}", "[red] answers"):
        assert name in text


def test_no_control_character_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    controls = "".join(map(chr, [*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066]))
    rows = [
        Row("qa", f"p{controls}", group, method, answer=f"a{controls}", scores={"f1": 0.5})
        for group in (f"g{controls}", "other")
        for method in (f"m{controls}", "base")
    ]
    rows.append(Row("qa", "q", "other", "base", failure=f"f{controls}"))
    found = Report(
        tuple(rows),
        {"notes": [f"n{controls}"]},
        prompt_texts={f"p{controls}": f"When{controls}?"},
        references={f"p{controls}": f"in{controls}"},
    )
    print_report(found)
    printed = capsys.readouterr()
    assert not {*controls} & {*printed.out, *printed.err}
    for begin in ("When", "in", "a", "m", "g", "f", "n"):
        assert f"{begin}�" in printed.err
    assert json.loads(printed.out) == json.loads(json.dumps(found.to_json()))


def test_a_method_without_a_result_has_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("document", "p", "all", "base", bits=8.0, bytes=8),
        Row("document", "p", "all", "rag:sift", 2, failure="ArgumentError: the text is too short"),
    ]
    lines = shown(Report(tuple(rows)), capsys)
    (failed,) = [line.split()[1:] for line in lines if line.startswith(" rag:sift")]
    assert failed == ["–", "–", "±", "–", "–", "–", "(–)"]
