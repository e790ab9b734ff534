"""Test that verdicts agree with their intervals, and which differences a report shows."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest

from langchain_sift.report.findings import compared_pairs
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row


def row(method, prompt, bits, *, k=None, protocol="document", group="prose", **changes):
    k = (0 if method == BASE else 2) if k is None else k
    scored = Row(protocol, prompt, group, method, k, bits=bits, bytes=100, tokens=25)
    return replace(scored, **changes)


def report_of(bits, **fields):
    rows = [row(m, f"p{i}", value) for m, values in bits.items() for i, value in enumerate(values)]
    return Report(rows=tuple(rows), **fields)


def answers(scores, metric="f1"):
    return Report(
        rows=tuple(
            row(m, f"p{i}", math.nan, protocol="qa", answer="so", scores={metric: score})
            for m, values in scores.items()
            for i, score in enumerate(values)
        )
    )


def verdict_of(report, protocol="document"):
    return report.verdict(protocol).replace("\N{NO-BREAK SPACE}", " ")


FLAT = {BASE: (200.0,) * 6}


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        ({"rag:a": (150.0, 152.0, 148.0, 150.0, 151.0, 149.0),
          "rag:b": (170.0, 172.0, 168.0, 170.0, 171.0, 169.0)},
         r"rag:a is best, with 75\.0 % of the base model's bits per byte: better than the base "
         r"model by 25\.0 points \(95 % interval 24\.\d to 25\.\d\), and better than the runner-up "
         r"\(rag:b\) by 10\.0 points \(95 % interval 10\.0 to 10\.0\)\."),
        ({"rag:a": (150.0, 170.0, 140.0, 180.0, 150.0, 160.0),
          "rag:b": (165.0, 157.0, 160.0, 150.0, 170.0, 151.0)},
         r"rag:a has the best mean, .* and not distinguishable from the runner-up \(rag:b\) on 6 "
         r"prompts, with a gain of 0\.2 points \(95 % interval −\d+\.\d to \d+\.\d\); about [\d,]+ "
         r"prompts would settle it\."),
        ({"rag:a": (210.0, 211.0, 212.0, 210.0, 213.0, 211.0)},
         r"No method improved on the base model: it is better than the closest \(rag:a\) by 5\.6 "
         r"points \(95 % interval [\d.]+ to [\d.]+\)\."),
        ({"rag:a": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0)},
         r"rag:a is best, with 95\.6 % of the base model's bits per byte: better than the base "
         r"model by 4\.4 points \(95 % interval [\d.]+ to [\d.]+\)\."),
        ({"rag:a": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0),
          "rag:b": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0)},
         r"rag:a has the best mean, .* and not distinguishable from the runner-up \(rag:b\) on 6 "
         r"prompts, with a gain of 0\.0 points \(95 % interval 0\.0 to 0\.0\); they may be "
         r"equal\."),
        ({}, r"Nothing can be compared: fewer than two methods have a score\."),
    ],
)  # fmt: skip
def test_the_verdict_states_how_certain_it_is(bits, sentence):
    assert re.fullmatch(sentence, verdict_of(report_of(FLAT | bits)))


def test_methods_better_than_base_are_named_if_the_best_is_uncertain():
    report = report_of(
        FLAT | {"ttft:sift": (100.0, 300.0, 60.0, 290.0, 90.0, 300.0),
                "ttft:nearest": (191.0, 192.0, 190.0, 193.0, 191.0, 192.0)}
    )  # fmt: skip
    assert re.fullmatch(
        r"ttft:sift has the best mean, with 95\.0 % of the base model's bits per byte: not "
        r"distinguishable from the base model on 6 prompts, [^;]*; about [\d,]+ prompts would "
        r"settle it\. Significantly better than the base model: ttft:nearest\.",
        verdict_of(report),
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_verdict_agrees_with_the_table_of_differences(seed):
    rng = random.Random(seed)
    report = report_of(
        FLAT
        | {m: tuple(rng.gauss(195, 9 * n) for _ in range(6)) for n, m in enumerate("abcdefg", 1)}
    )
    finding = report.findings["document"]
    differences = finding.differences["percent_of_base"]
    verdicts = {(d.first, d.second): d.verdict for d in differences}
    ranked = report.ranked_methods("document", "percent_of_base")
    better = [m for m in ranked if verdicts.get((m, BASE)) == "better"]
    sentence = verdict_of(report)
    best, runner_up = ranked[:2]
    if best == BASE:
        assert sentence.startswith("No method improved")
        return
    settled = {verdicts.get((best, rival)) for rival in (BASE, runner_up)} == {"better"}
    assert sentence.startswith(f"{best} is best" if settled else f"{best} has the best mean")
    named = sentence.partition("Significantly better than the base model: ")[2].rstrip(".")
    if best in better or not better:
        assert not named
    else:
        more = f" and {len(better) - 3} more" if len(better) > 3 else ""
        assert named == ", ".join(better[:3]) + more


def test_the_verdict_pairs_prompts():
    # Prompts differ far more than the methods do, and in the same way for both.
    report = report_of(
        {BASE: (100.0,) * 6, "rag:a": (50.0, 70.0, 90.0, 60.0, 80.0, 70.0),
         "rag:b": (55.0, 75.1, 95.0, 65.0, 85.0, 74.9)}
    )  # fmt: skip
    assert report.summary("document")["rag:a"].standard_error > 5
    assert "better than the runner-up (rag:b) by 5.0 points" in verdict_of(report)


def test_the_verdict_contains_the_number_of_prompts_needed():
    report = report_of(
        FLAT | {"rag:a": (150.0, 170.0, 140.0, 180.0, 150.0, 160.0),
                "rag:b": (160.0, 165.0, 150.0, 170.0, 155.0, 164.0)}
    )  # fmt: skip
    interval = report.difference("document", "rag:a", "rag:b").interval
    needed = math.ceil(6 * ((interval.high - interval.low) / 2 / abs(interval.value)) ** 2)
    assert f"about {max(needed, 7):,} prompts would settle it" in verdict_of(report)


def test_higher_scores_of_answers_are_better():
    high, low = (0.9, 0.8, 1.0) * 2, (0.1, 0.2, 0.0) * 2
    report = answers({BASE: low, "rag:a": high, "mine": (0.5,) * 6})
    sentence = verdict_of(report, "qa")
    assert sentence.startswith("rag:a is best, with f1 0.900: better than the base model by 0.800")
    assert "better than the runner-up (mine) by 0.400 (95 % interval 0.306 to 0.494)" in sentence
    worse = answers({BASE: high, "rag:a": low})
    assert "it is better than the closest (rag:a) by 0.800" in verdict_of(worse, "qa")


def test_the_verdict_on_two_questions_says_they_are_too_few():
    report = answers({BASE: (0.0, 1.0), "rag:a": (1.0, 1.0)}, "exact_match")
    assert verdict_of(report, "qa") == (
        "rag:a has the best mean, with exact_match 1.000: not distinguishable from the base "
        "model on 2 prompts, with a gain of 0.500 (95 % interval −1.000 to 1.000); prompts from "
        "2 sources are too few for a decision."
    )


def test_the_verdict_on_three_equal_differences_says_that_they_give_no_interval():
    report = answers({BASE: (0.0, 0.0, 0.0), "rag:a": (1.0, 1.0, 1.0)}, "contains")
    assert verdict_of(report, "qa") == (
        "rag:a has the best mean, with contains 1.000: not distinguishable from the base model (3 "
        "sources of prompts with the same difference give no interval)."
    )


def test_the_verdict_on_unscored_answers_names_the_cure():
    rows = [replace(row(m, "p", math.nan), answer="so") for m in (BASE, "rag:a")]
    assert "provide reference answers or a scorer" in verdict_of(Report(rows=tuple(rows)))


def test_a_verdict_without_a_common_prompt():
    rows = [row(BASE, "p", 100.0), row(BASE, "q", 100.0), row("rag:a", "p", 50.0),
            row("rag:b", "q", 60.0)]  # fmt: skip
    assert "no prompt was measured with both" in verdict_of(Report(rows=tuple(rows)))


def test_a_verdict_where_the_best_mean_is_on_other_prompts():
    # b was scored on easy prompts alone; where both were scored it is worse.
    rows = [row(BASE, f"p{i}", 100.0) for i in range(12)]
    rows += [row("rag:a", f"p{i}", 50.0 if i < 6 else 90.0) for i in range(12)]
    rows += [row("rag:b", f"p{i}", 55.0 + i / 25) for i in range(6)]
    sentence = verdict_of(Report(rows=tuple(rows)))
    assert sentence.startswith("rag:b has the best mean, with ")
    assert re.search(
        r"and worse than the runner-up \(rag:a\) by 5\.1 points .* on the prompts measured "
        r"with both\.",
        sentence,
    )


def test_the_main_methods_are_compared_each_with_each():
    names = [f"{mode}:{s}" for mode in ("rag", "ttft") for s in ("sift", "nearest", "mmr", "hull")]
    names += ["ttft:sift:residual", "ttft:sift:exhaustive"]
    rng = random.Random(0)
    report = report_of(
        FLAT | {m: [(100 + 5 * n) * rng.uniform(0.99, 1.01) for _ in range(6)]
                for n, m in enumerate(reversed(names))}
    )  # fmt: skip
    finding = report.findings["document"]
    differences = finding.differences["percent_of_base"]
    assert finding.best == "ttft:sift:exhaustive"
    assert [d.first for d in differences[:10]] == list(reversed(names))
    assert all(d.second == BASE for d in differences[:10])
    main = ["ttft:sift:exhaustive", *list(reversed(names))[2:7]]  # the best, and the best plain
    pairs = [(a, b) for n, a in enumerate(main) for b in main[n + 1 :]]
    pairs.append(("rag:sift", "rag:nearest"))  # compared although it is not among the main methods
    assert [(d.first, d.second) for d in differences[10:]] == pairs


def rankings(scores):
    return Report(
        rows=tuple(
            row(m, f"p{i}", math.nan, protocol="retrieval", k=10, scores={"ndcg": score})
            for m, values in scores.items()
            for i, score in enumerate(values)
        )
    )


def test_a_limit_for_the_documents_in_the_prompt_is_compared_with_none():
    limited = [f"both:sift:context_k={k}" for k in range(1, 8)]
    pairs = compared_pairs([*limited, "both:sift", "rag:sift", BASE], each_with_each=True)
    assert ("both:sift", "rag:sift") in pairs
    assert {(method, "both:sift") for method in limited} <= {*pairs}
    assert len({*pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({"nearest": (0.4, 0.5, 0.41, 0.5, 0.42, 0.5), "sift": (0.6, 0.7, 0.62, 0.7, 0.61, 0.7)},
         r"sift is best, with nDCG@10 0\.655: better than nearest by 0\.200 \(95 % .*\)\."),
        ({"rag:nearest": (0.4, 0.5, 0.41, 0.5, 0.42, 0.5), "mmr": (0.3, 0.2, 0.3, 0.2, 0.3, 0.2)},
         r"No method improved on rag:nearest: it is better than the closest \(mmr\) by .*"),
        ({"mmr": (0.4, 0.5, 0.41, 0.5, 0.42, 0.5), "sift": (0.6, 0.7, 0.62, 0.7, 0.61, 0.7)},
         r"sift is best, with nDCG@10 0\.655: better than the runner-up \(mmr\) by .*"),
    ],
)  # fmt: skip
def test_without_a_model_methods_are_compared_with_nearest_neighbours(scores, sentence):
    assert re.fullmatch(sentence, verdict_of(rankings(scores), "retrieval"))


def test_selections_alone_are_compared_as_those_of_rag_are():
    rng = random.Random(0)
    methods = ("nearest", "mmr", "sift", "sift:kernel=rbf:length_scale=0.35", "own")
    report = rankings({m: [rng.random() for _ in range(6)] for m in methods})
    pairs = {
        frozenset((d.first, d.second)) for d in report.findings["retrieval"].differences["ndcg"]
    }
    assert {frozenset(("nearest", m)) for m in methods[1:]} <= pairs
    assert {frozenset(("sift", "mmr")), frozenset(("sift", "own"))} <= pairs


@pytest.mark.parametrize(("best", "is_warned"), [(0.0, True), (0.1, False)])
def test_the_verdict_says_that_no_method_answered_a_question(best, is_warned):
    report = answers({BASE: (0.0, 0.0, 0.0), "rag:a": (0.0, 0.0, best)})
    assert ("No method answered a question" in verdict_of(report, "qa")) == is_warned


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("prompts", [1, 20])
def test_a_metric_that_only_one_method_has_decides_nothing(score, prompts):
    """The model has bits per byte, and a chain has not."""
    rows = [
        row(method, f"p{n}", bits, protocol="qa", k=0, answer="so", scores={"f1": score})
        for n in range(prompts)
        for method, bits in ((BASE, 50.0 + n), ("chain", math.nan))
    ]
    said = verdict_of(Report(rows=tuple(rows)), "qa")
    warning = " No method answered a question: F1 is 0 for all." if score == 0 else ""
    assert said == (
        f"There is no difference in f1: it is {score:.3f} for all methods on each prompt.{warning}"
    )
    alone = verdict_of(Report(rows=tuple(r for r in rows if r.method == BASE)), "qa")
    assert alone == f"Nothing can be compared: fewer than two methods have a score.{warning}"


def test_the_first_metric_is_one_that_two_methods_have():
    rng = random.Random(0)
    for _ in range(200):
        rows = [
            row(m, f"p{n}", rng.choice((math.nan, 50.0, 60.0)), protocol="qa", k=0,
                scores={name: rng.choice((0.0, 0.0, 1.0)) for name in "ab" if rng.random() < 0.4})
            for m in (BASE, "x", "y")[: rng.randint(1, 3)]
            for n in range(2)
        ]  # fmt: skip
        report = Report(rows=tuple(rows))
        metrics = report.metrics("qa")
        shared = [name for name in metrics if len(report.ranked_methods("qa", name)) > 1]
        assert list(metrics[: len(shared)]) == shared
        if shared:
            assert "fewer than two methods" not in report.verdict("qa")
