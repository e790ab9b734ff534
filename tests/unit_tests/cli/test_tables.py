"""The tables of a report fit into a terminal, and show what was measured."""

from __future__ import annotations

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
    return capsys.readouterr().out.splitlines()


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


def test_sources_are_shown_if_documents_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"nearest": 10, "sift": 10}
    assert any("sources" in line for line in shown(report(SCORES, counts, 3), capsys)[:6])
    assert not any("sources" in line for line in shown(report(SCORES, counts), capsys)[:6])
