"""Test that a condition holds for the right methods, and that a mistake in it is named."""

from __future__ import annotations

import pytest

from langchain_sift.errors import ArgumentError
from langchain_sift.report.conditions import Condition, parse_condition
from langchain_sift.report.metrics import RETRIEVAL_METRICS
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row

METHODS = ["nearest", "sift:kernel=rbf:length_scale=0.35"]


def parse(text: str, methods: list[str] | None = None) -> Condition:
    return parse_condition(
        text, metrics=RETRIEVAL_METRICS, methods=METHODS if methods is None else methods, ks=[5, 10]
    )


def report(*, failure: str | None = None) -> Report:
    values = {(METHODS[0], 5): 0.3, (METHODS[0], 10): 0.5, (METHODS[1], 5): 0.4}
    rows = [
        Row("retrieval", "p", "all", method, k, scores={"ndcg": value})
        for (method, k), value in values.items()
    ]
    rows.append(
        Row(
            "retrieval",
            "p",
            "all",
            METHODS[1],
            10,
            scores={} if failure else {"ndcg": 0.6},
            failure=failure,
        )
    )
    return Report(tuple(rows))


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("ndcg<0.55", [METHODS[0]]),
        ("ndcg@10<0.55", [METHODS[0]]),
        ("nDCG@5 < 0.35", [METHODS[0]]),
        ("ndcg@5<=0.4", METHODS),
        ("ndcg@5<0.3", []),
        ("ndcg@5>=0.4", [METHODS[1]]),
        ("nearest:ndcg>0.4", [METHODS[0]]),
        ("sift:kernel=rbf:length_scale=0.35:ndcg@10>0.4", [METHODS[1]]),
        ("sift:kernel=rbf:length_scale=0.35:ndcg@10<0.4", []),
        ("failures>0", []),
        ("prompts<2", METHODS),
    ],
)
def test_a_condition_names_the_methods_for_which_it_holds(text: str, methods: list[str]) -> None:
    failures = parse(text).failures(report())
    assert [failure.split(" has ")[0] for failure in failures] == [
        f"{text}: {method}" for method in methods
    ]


def test_a_check_does_not_pass_because_nothing_was_measured() -> None:
    assert parse("ndcg<0.1").failures(report(failure="ValueError: no")) == [
        f"ndcg<0.1: {METHODS[1]} has no result (retrieval)"
    ]
    assert parse("recall<0.1").failures(report()) == ["recall<0.1: recall was not measured"]
    assert parse("percent_of_base>90").failures(report()) == [
        "percent_of_base>90: percent_of_base was not measured"
    ]


def test_the_base_model_is_checked_only_by_name() -> None:
    rows = [Row("document", "p", "all", method, bits=1.0, bytes=2) for method in (BASE, "rag:sift")]
    methods = [BASE, "rag:sift"]
    condition = parse("percent_of_base>=100", methods)
    assert condition.failures(Report(tuple(rows))) == [
        "percent_of_base>=100: rag:sift has 100 (document)"
    ]
    named = parse("base:bits_per_byte>0.4", methods)
    assert named.failures(Report(tuple(rows))) == [
        "base:bits_per_byte>0.4: base has 0.5 (document)"
    ]


@pytest.mark.parametrize(
    ("name", "metric"),
    [("hit rate", "hit"), ("MRR", "mrr"), ("α-nDCG", "alpha_ndcg"), ("alpha-ndcg", "alpha_ndcg"),
     ("answer found", "answer_hit"), ("% of base", "percent_of_base"), ("Seconds", "seconds")],
)  # fmt: skip
def test_a_metric_may_have_its_name_in_the_tables(name: str, metric: str) -> None:
    assert parse(f"{name}@5<1").metric == metric


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndgc@10<0.4", "no metric 'ndgc': did you mean 'ndcg'"),
        ("zzz<1", "use one of .*redundancy"),
        ("nearst:ndcg<0.4", "no method 'nearst': did you mean 'nearest'"),
        ("ndcg@20<0.4", "20 documents are not measured, but 5,10: add 20 to --k"),
        ("ndcg=0.4", "is no condition: write it as"),
        ("ndcg<many", "is no condition"),
        ("ndcg<nan", "is no condition"),
        ("<0.4", "is no condition"),
        ("", "is no condition"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse(text)
