"""Test the Markdown of a report: tables, leaks, failures and escaping."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from langchain_sift.report.markdown import markdown
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row


def row(method, prompt, bits, *, k=None, protocol="document", group="prose", **changes):
    k = (0 if method == BASE else 2) if k is None else k
    scored = Row(protocol, prompt, group, method, k, bits=bits, bytes=100, tokens=25)
    return replace(scored, **changes)


def report_of(bits, **fields):
    rows = [row(m, f"p{i}", value) for m, values in bits.items() for i, value in enumerate(values)]
    return Report(rows=tuple(rows), **fields)


def tables(text):
    """Return the tables of a text in Markdown, each a list of lines of cells."""
    all_tables, last = [], None
    for line in text.splitlines():
        if line.startswith("|"):
            if last is None:
                all_tables.append(last := [])
            last.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            last = None
    return all_tables


FLAT = {BASE: (200.0,) * 6}


def test_failures_and_leaks_are_reported():
    report = report_of(FLAT | {"rag:a": (100.0,) * 6}, leaks={"p1": "an exact copy in d"})
    failed = [replace(r, failure="no") if r.key[1:3] == ("p0", "rag:a") else r for r in report.rows]
    report = replace(report, rows=tuple(failed))
    text = markdown(report, {})
    assert "Failed: rag:a on 1 of 6 prompts." in text
    assert "the store contains the scored text of 1 of 6 prompts." in text
    assert [["prompt", "leak"], ["---", "---"],
            ["p1", "an exact copy in d"]] in tables(text)  # fmt: skip


def test_one_is_no_plural():
    rows = [row(BASE, "p", 200.0), *(row("rag:a", "p", 100.0, k=k) for k in (1, 2))]
    lines = markdown(Report(rows=tuple(rows)), {}).splitlines()
    assert lines[0] == "# Comparison of 2 methods on 1 prompt"
    assert {"With 2 documents, 1 prompt:", "### With 1 document"} <= {*lines}


def test_excluded_leaks_are_counted_without_a_second_verdict():
    leaks = {f"held{n}": "an exact copy in d" for n in range(5)}
    report = report_of(FLAT, leaks=leaks, settings={"leaks": "exclude"})
    text = markdown(report, {})
    assert "the store contains the scored text of 5 of 11 prompts; they are excluded." in text
    assert "Without these prompts" not in text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_tables_agree_with_the_rows(seed):
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
        chosen = [r for r in rows if r.method == method and r.k == k and group in {None, r.group}]
        base = {r.prompt: r.bits for r in rows if r.method == BASE}
        return f"{100 * sum(r.bits for r in chosen) / sum(base[r.prompt] for r in chosen):.1f}"

    for table, k in ((largest, 4), (smaller, 1)):
        column = table[0].index("% of base")
        assert {line[0]: line[column] for line in table[2:]} == {
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


def test_the_correlation_of_uncertainty_is_in_a_table():
    rows = []
    for i in range(6):
        chosen = (ChosenDocument("a", 0.1, (i / 10) ** 2, 1),)
        rows += [row(BASE, f"p{i}", 100.0), row("ttft:sift", f"p{i}", 50.0 + i, chosen=chosen)]
    report = Report(rows=tuple(rows))
    finding = report.findings["document"]
    assert finding.correlations["ttft:sift"].value == pytest.approx(1.0)
    table = next(t for t in tables(markdown(report, {})) if "ρ" in t[0][1])
    assert table[2][:2] == ["`ttft:sift`", "1.00"]


def test_names_are_escaped():
    rows = [row(m, f"p{i}", 100.0, protocol="a\n<b>|") for m in (BASE, "rag:x|y") for i in range(3)]
    report = Report(rows=tuple(rows), settings={"<i>": "a\n\n# b"})
    text = markdown(report, {})
    assert "<" not in text.replace("&lt;", "")
    assert "\n# b" not in text
    assert all(len(line) == len(table[0]) for table in tables(text) for line in table)


def test_an_empty_report_has_a_title():
    assert Report(rows=()).findings == {}
    assert markdown(Report(rows=()), {}).startswith("# Comparison of 0 methods")


HOSTILE = ("*a*", "[l](https://e.org)", "![x](https://e.org/p.png)", "_b_ c_d", "`c` ``", "~~s~~",
           "a|b", "back\\|slash\\", "<b>x</b>", "&lt;", "[r][1]", "__x__ a_b_ _", "two\n# lines",
           "<https://e.org>", "***", "\\*e\\*", "`a|b`", "https://e.org/x", "www.e.org|",
           "ftp://e.org", "a (HTTP://e.org)")  # fmt: skip


def texts_of(tokens):
    """Yield the text of each part, and fail for any markup but bold, code and the plots."""
    for token in tokens:
        if token.type == "inline":
            yield "".join(texts_of(token.children))
        elif token.type in {"text", "code_inline", "text_special"}:
            yield token.content
        else:
            assert token.type not in {"em_open", "s_open", "link_open", "image", "html_inline",
                                      "html_block", "hr", "fence", "code_block"}  # fmt: skip


@pytest.mark.slow
def test_a_reader_of_markdown_sees_the_names_that_were_given():
    """The oracle is a parser of GitHub's Markdown."""
    scores = dict.fromkeys(HOSTILE, 0.5)
    rows = [
        row(m, f"p{i}", 100.0 + i, group=name, scores=scores)
        for m in (BASE, *HOSTILE)
        for i, name in enumerate(HOSTILE)
    ]
    report = Report(
        rows=tuple(rows),
        leaks=dict(zip(HOSTILE, reversed(HOSTILE), strict=True)),
        settings={name: name for name in HOSTILE} | {"notes": list(HOSTILE)},
    )
    text = markdown(report, {})
    seen = list(texts_of(MarkdownIt("gfm-like", {"linkify": False}).parse(text)))
    for name in HOSTILE:
        shown = " ".join(name.split())
        assert seen.count(shown) > 3  # a setting and its value, a leak, and a method
        assert f"{shown} (1)" in seen
        assert f"Differences in {shown}" in seen
        assert f"Note: {shown}" in seen


def test_web_addresses_in_names_are_no_links():
    report = Report(rows=(), settings={name: name for name in HOSTILE})
    # Without this rule, an escaped character stays apart, and no link goes across it.
    parser = MarkdownIt("gfm-like", {"linkify": False}).disable("text_join")
    parsed = parser.parse(markdown(report, {}))
    texts = [
        part.content for token in parsed for part in token.children or () if part.type == "text"
    ]
    assert any("e.org" in text for text in texts)
    # The beginnings of the extended autolinks of GitHub's Markdown, but those of mail.
    assert not [text for text in texts if re.search(r"(https?|ftp)://|www\.", text, re.I)]
