"""A report in words: verdicts that claim no more than their intervals, and tables."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest

from langchain_sift.report.markdown import markdown
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row
from langchain_sift.report.tables import format_setting


def row(method, prompt, bits, *, k=None, protocol="document", group="prose", **changes):
    k = (0 if method == BASE else 2) if k is None else k
    made = Row(protocol, prompt, group, method, k, bits=bits, bytes=100, tokens=25)
    return replace(made, **changes)


def report_of(bits, **fields):
    rows = [row(m, f"p{i}", one) for m, values in bits.items() for i, one in enumerate(values)]
    return Report(rows=tuple(rows), **fields)


def answers(scores, metric="f1"):
    return Report(
        rows=tuple(
            row(m, f"p{i}", math.nan, protocol="qa", answer="so", scores={metric: one})
            for m, values in scores.items()
            for i, one in enumerate(values)
        )
    )


def said(report, protocol="document"):
    return report.verdict(protocol).replace("\N{NO-BREAK SPACE}", " ")


def tables(text):
    """Return the tables of a text in Markdown, each a list of lines of cells."""
    found, last = [], None
    for line in text.splitlines():
        if line.startswith("|"):
            if last is None:
                found.append(last := [])
            last.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            last = None
    return found


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
         r"rag:a has the best mean, .* and not to be told from the runner-up \(rag:b\) on 6 "
         r"prompts, with a gain of 0\.2 points \(95 % interval −\d+\.\d to \d+\.\d\); about [\d,]+ "
         r"would settle it\."),
        ({"rag:a": (210.0, 211.0, 212.0, 210.0, 213.0, 211.0)},
         r"No method improved on the base model: it is better than the closest \(rag:a\) by 5\.6 "
         r"points \(95 % interval [\d.]+ to [\d.]+\)\."),
        ({"rag:a": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0)},
         r"rag:a is best, with 95\.6 % of the base model's bits per byte: better than the base "
         r"model by 4\.4 points \(95 % interval [\d.]+ to [\d.]+\)\."),
        ({"rag:a": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0),
          "rag:b": (190.0, 191.0, 192.0, 190.0, 193.0, 191.0)},
         r"rag:a has the best mean, .* and not to be told from the runner-up \(rag:b\) on 6 "
         r"prompts, with a gain of 0\.0 points \(95 % interval 0\.0 to 0\.0\); they may be "
         r"the same\."),
        ({}, r"There are no two methods to compare: .*"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_is_certain(bits, sentence):
    assert re.fullmatch(sentence, said(report_of(FLAT | bits)))


def test_methods_that_are_certainly_better_than_base_are_named_where_the_best_is_not():
    report = report_of(
        FLAT | {"ttft:sift": (100.0, 300.0, 60.0, 290.0, 90.0, 300.0),
                "ttft:nearest": (191.0, 192.0, 190.0, 193.0, 191.0, 192.0)}
    )  # fmt: skip
    assert re.fullmatch(
        r"ttft:sift has the best mean, with 95\.0 % of the base model's bits per byte: not to be "
        r"told from the base model on 6 prompts, [^;]*; about [\d,]+ would settle it\. "
        r"Certainly better than the base model: ttft:nearest\.",
        said(report),
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_headline_claims_what_the_table_of_differences_says(seed):
    rng = random.Random(seed)
    report = report_of(
        FLAT
        | {m: tuple(rng.gauss(195, 9 * n) for _ in range(6)) for n, m in enumerate("abcdefg", 1)}
    )
    finding = report.findings["document"]
    told = {(one.first, one.second): one.verdict for one in finding.differences["percent_of_base"]}
    ranked = report.ranked_methods("document", "percent_of_base")
    certain = [m for m in ranked if told.get((m, BASE)) == "better"]
    sentence = said(report)
    best, runner_up = ranked[:2]
    if best == BASE:
        assert sentence.startswith("No method improved")
        return
    settled = {told.get((best, rival)) for rival in (BASE, runner_up)} == {"better"}
    assert sentence.startswith(f"{best} is best" if settled else f"{best} has the best mean")
    named = sentence.partition("Certainly better than the base model: ")[2].rstrip(".")
    if best in certain or not certain:
        assert not named
    else:
        more = f" and {len(certain) - 3} more" if len(certain) > 3 else ""
        assert named == ", ".join(certain[:3]) + more


def test_the_verdict_pairs_prompts():
    # Prompts differ far more than the methods do, and in the same way for both.
    report = report_of(
        {BASE: (100.0,) * 4, "rag:a": (50.0, 70.0, 90.0, 60.0), "rag:b": (55.0, 75.1, 95.0, 65.0)}
    )
    assert report.summary("document")["rag:a"].standard_error > 8
    assert "better than the runner-up (rag:b) by 5.0 points" in said(report)


def test_the_prompts_needed_are_those_of_the_difference():
    report = report_of(
        FLAT | {"rag:a": (150.0, 170.0, 140.0, 180.0, 150.0, 160.0),
                "rag:b": (160.0, 165.0, 150.0, 170.0, 155.0, 164.0)}
    )  # fmt: skip
    interval = report.difference("document", "rag:a", "rag:b").interval
    needed = math.ceil(6 * ((interval.high - interval.low) / 2 / abs(interval.value)) ** 2)
    assert f"about {max(needed, 7):,} would settle it" in said(report)


def test_of_answers_more_is_better():
    report = answers({BASE: (0.1, 0.2, 0.0), "rag:a": (0.9, 0.8, 1.0), "mine": (0.5, 0.4, 0.6)})
    sentence = said(report, "qa")
    assert sentence.startswith("rag:a is best, with f1 0.900: better than the base model by 0.800")
    assert "better than the runner-up (mine) by 0.400 (95 % interval 0.400 to 0.400)" in sentence
    worse = answers({BASE: (0.9, 0.8, 1.0), "rag:a": (0.1, 0.2, 0.0)})
    assert "it is better than the closest (rag:a) by 0.800" in said(worse, "qa")


def test_two_questions_are_said_to_be_too_few():
    report = answers({BASE: (0.0, 1.0), "rag:a": (1.0, 1.0)}, "exact_match")
    assert said(report, "qa") == (
        "rag:a has the best mean, with exact_match 1.000: not to be told from the base model on 2 "
        "prompts, with a gain of 0.500 (95 % interval −1.000 to 1.000); prompts of 2 sources are "
        "too few to tell."
    )


def test_answers_that_nothing_judges_are_said_to_be_that():
    rows = [replace(row(m, "p", math.nan), answer="so") for m in (BASE, "rag:a")]
    assert "give reference answers" in said(Report(rows=tuple(rows)))


def test_a_verdict_without_a_common_prompt():
    rows = [row(BASE, "p", 100.0), row(BASE, "q", 100.0), row("rag:a", "p", 50.0),
            row("rag:b", "q", 60.0)]  # fmt: skip
    assert "no prompt was measured with both" in said(Report(rows=tuple(rows)))


def test_a_verdict_where_the_ranks_are_of_other_prompts():
    # b was scored on easy prompts alone; where both were scored it is worse.
    rows = [row(BASE, f"p{i}", 100.0) for i in range(8)]
    rows += [row("rag:a", f"p{i}", 50.0 if i < 4 else 90.0) for i in range(8)]
    rows += [row("rag:b", f"p{i}", 55.0 + i / 10) for i in range(4)]
    sentence = said(Report(rows=tuple(rows)))
    assert sentence.startswith("rag:b has the best mean, with ")
    assert "on the prompts of both worse than the runner-up (rag:a) by 5.2 points" in sentence


def test_failures_and_leaks_are_told():
    report = report_of(FLAT | {"rag:a": (100.0,) * 6}, leaks={"p1": "an exact copy in d"})
    failed = [replace(r, failure="no") if r.key[1:3] == ("p0", "rag:a") else r for r in report.rows]
    report = replace(report, rows=tuple(failed))
    text = markdown(report, {})
    assert "Failed: rag:a on 1 of 6 prompts." in text
    assert "the store holds the scored text of 1 of 6 prompts." in text
    assert [["prompt", "what the store holds of it"], ["---", "---"],
            ["p1", "an exact copy in d"]] in tables(text)  # fmt: skip


def test_prompts_that_leak_and_are_left_out_count_and_no_advice_is_given():
    leaks = {f"held{n}": "an exact copy in d" for n in range(5)}
    report = report_of(FLAT, leaks=leaks, settings={"leaks": "exclude"})
    text = markdown(report, {})
    assert "the store holds the scored text of 5 of 11 prompts: those are left out." in text
    assert "Without these prompts" not in text


@pytest.mark.parametrize("seed", range(3))
def test_the_tables_hold_what_the_rows_say(seed):
    rng = random.Random(seed)
    methods, groups, ks = ("rag:nearest", "ttft:sift", "ttft:sift:residual"), ("a", "b"), (1, 4)
    rows = [
        row(m, f"{g}{i}", rng.uniform(50, 200), k=k, group=g, seconds_training=rng.random())
        for g in groups
        for i in range(4)
        for m in (BASE, *methods)
        for k in ((0,) if m == BASE else ks)
    ]
    report = Report(rows=tuple(rows), settings={"ks": [1, 4], "model": "a|b"})
    text = markdown(report, {"document": [("A plot", "plots/a.svg")]})
    largest, smaller, by_group, differences, *_ = tables(text)

    def percent(method, k, group=None):
        own = [r for r in rows if r.method == method and r.k == k and group in {None, r.group}]
        base = {r.prompt: r.bits for r in rows if r.method == BASE}
        return f"{100 * sum(r.bits for r in own) / sum(base[r.prompt] for r in own):.1f}"

    for table, k in ((largest, 4), (smaller, 1)):
        place = table[0].index("% of base")
        assert {line[0]: line[place] for line in table[2:]} == {
            f"`{m}`": percent(m, k if m != BASE else 0) for m in (BASE, *methods)
        }
    assert by_group[0] == ["% of base", "a (4)", "b (4)"]
    assert {line[0]: [c.split(" ±")[0] for c in line[1:]] for line in by_group[2:]} == {
        f"`{m}`": [percent(m, 4 if m != BASE else 0, g) for g in groups] for m in (BASE, *methods)
    }
    assert {line[0] for line in differences[2:] if line[1] == "`base`"} == {
        f"`{m}`" for m in methods
    }
    for line in differences[2:]:
        first, second = (cell.strip("`") for cell in line[:2])
        expected = report.difference("document", first, second)
        assert line[2] == f"{expected.interval.value:+.1f}".replace("-", "−")
        assert line[4] == expected.verdict
    assert "![A plot](plots/a.svg)" in text
    assert ["model", "a\\|b"] in tables(text)[-1]
    assert "nan" not in text


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
    pairs.append(("rag:sift", "rag:nearest"))  # the one question that is always answered
    assert [(d.first, d.second) for d in differences[10:]] == pairs


def test_uncertainty_and_gain_go_together():
    rows = []
    for i in range(6):
        chosen = (ChosenDocument("a", 0.1, (i / 10) ** 2, 1),)
        rows += [row(BASE, f"p{i}", 100.0), row("ttft:sift", f"p{i}", 50.0 + i, chosen=chosen)]
    report = Report(rows=tuple(rows))
    finding = report.findings["document"]
    assert finding.correlations["ttft:sift"].value == pytest.approx(1.0)
    table = next(t for t in tables(markdown(report, {})) if "ρ" in t[0][1])
    assert table[2][:2] == ["`ttft:sift`", "1.00"]


def test_a_name_makes_no_markup():
    rows = [row(m, f"p{i}", 100.0, protocol="a\n<b>|") for m in (BASE, "rag:x|y") for i in range(3)]
    report = Report(rows=tuple(rows), settings={"<i>": "a\n\n# b"})
    text = markdown(report, {})
    assert "<" not in text.replace("&lt;", "")
    assert "\n# b" not in text
    assert all(len(line) == len(table[0]) for table in tables(text) for line in table)


def test_an_empty_report_has_words():
    assert Report(rows=()).findings == {}
    assert markdown(Report(rows=()), {}).startswith("# Comparison of 0 methods")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "not set"), ([1, 2], "1, 2"), ({"a": "ä"}, '{"a": "ä"}'), (True, "True"), (0.5, "0.5")],
)
def test_a_setting_is_one_line(value, shown):
    assert format_setting(value) == shown
