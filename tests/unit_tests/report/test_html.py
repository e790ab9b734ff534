"""Test that the page of a report is complete, escaped, self-contained and reproducible."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from langchain_sift.report import html
from langchain_sift.report.plots.plots import draw_plots
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
ATTACK = "<script>alert(1)</script>"
# Bits on four prompts of 100 bytes. The base model needs 800 in all.
BITS = {
    BASE: (200.0, 180.0, 220.0, 200.0),
    "rag:nearest": (190.0, 172.0, 208.0, 190.0),
    "ttft:nearest": (170.0, 152.0, 188.0, 170.0),
    "ttft:sift": (150.0, 134.0, 166.0, 150.0),
}


def document(name, gain=0.2, left=0.5, copies=1):
    return ChosenDocument(name, gain, left, copies)


def row(method, prompt, bits, protocol="document", group="prose", **changes):
    alone = method == BASE
    chosen = () if alone else (document("a", 0.4, 0.6), document("b", 0.3, 0.3))
    scored = Row(
        protocol=protocol,
        prompt=prompt,
        group=group,
        method=method,
        k=0 if alone else 2,
        bits=bits,
        bytes=100,
        tokens=25,
        seconds_answering=0.5,
        chosen=chosen,
        used_indices=tuple(range(len(chosen))),
        prior_variance=1.0 if chosen else math.nan,
    )
    return replace(scored, **changes)


def report_of(rows, **fields):
    return Report(rows=tuple(rows), **fields)


def small_report(bits=BITS, protocol="document"):
    return report_of(
        row(method, f"p{i}", value, protocol, "prose" if i < 2 else "code")
        for method, values in bits.items()
        for i, value in enumerate(values)
    )


class Page(HTMLParser):
    """Checks that tags close in order, and collects tags, words, tables and data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.tables, self.data = [], [], [], [], ""
        self.cell = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self.cell = self.tables[-1][-1]

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in {"td", "th"}:
            self.cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] == "script" and self.tags[-1][1].get("id") == "chosen":
            self.data += data
        elif self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)
            if self.cell is not None:
                self.cell[-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    @property
    def chosen(self):
        return json.loads(self.data)

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= has.items() for name, has in self.tags)

    def table(self, *headings):
        """Return the first table with these among its headings, as text by method and heading."""
        for table in self.tables:
            for index, line in enumerate(table):
                if {"method", *headings} <= set(line):
                    return {
                        cells[0]: dict(zip(line, cells, strict=False))
                        for cells in table[index + 1 :]
                    }
        raise AssertionError(headings)


@pytest.fixture
def write(tmp_path):
    def written(report, *, plots=False):
        drawn = {name: draw_plots(report, name) for name in report.protocols if plots}
        written = html.write_html(report, tmp_path / "report.html", drawn)
        text = written.path.read_text("utf-8")
        return Page(text), text

    return written


def document_lists(page):
    """Return the lists of all prompts, in order."""
    return [documents for prompt in page.chosen["lists"] for documents in prompt]


@pytest.mark.slow
def test_the_page_contains_tables_plots_and_prompts(write):
    page, _ = write(small_report(), plots=True)
    assert page.table("bits/byte", "perplexity", "answering")
    assert page.table("prose (2)", "code (2)")
    assert page.table("against", "verdict")
    assert page.count("svg") == 4  # by group, seconds, variance, σ; there is only one k
    assert page.count("details", **{"class": "prompt"}) == 4
    assert page.count("tr", **{"class": "best"}) == 2
    assert "Comparison of 4 methods on 4 prompts" in page.text


def test_the_report_is_returned_with_its_path(tmp_path):
    report = small_report()
    written = html.write_html(report, tmp_path / "page.html", {})
    assert written == replace(report, path=tmp_path / "page.html")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_agree_with_the_rows(write, seed):
    rng = random.Random(seed)
    prompts = [f"p{i}" for i in range(rng.randint(2, 9))]
    rows = [
        row(
            method,
            prompt,
            rng.uniform(50, 300),
            bytes=rng.randint(50, 400),
            tokens=rng.randint(10, 99),
            seconds_retrieval=rng.random(),
            seconds_training=5 * rng.random(),
            tokens_training=rng.randint(0, 5000),
            redundancy=rng.random(),
            peak_memory=rng.randint(10**6, 10**10),
            scores={"f1": rng.random()},
        )
        for method in BITS
        for prompt in prompts
    ]
    rows = [replace(r, bytes=next(o.bytes for o in rows if o.prompt == r.prompt)) for r in rows]
    page, _ = write(report_of(rows))
    table = page.table("bits/byte", "peak MiB")
    base = sum(r.bits for r in rows if r.method == BASE)
    for method in BITS:
        chosen = [r for r in rows if r.method == method]
        bits, count = sum(r.bits for r in chosen), len(chosen)
        expected = {
            "bits/byte": f"{bits / sum(r.bytes for r in chosen):.3f}",
            "% of base": f"{100 * bits / base:.1f}",
            "perplexity": f"{2 ** (bits / sum(r.tokens for r in chosen)):,.2f}",
            "f1": f"{sum(r.scores['f1'] for r in chosen) / count:.3f}",
            "seconds": f"{sum(r.seconds for r in chosen) / count:.2f}",
            "training": f"{sum(r.seconds_training for r in chosen) / count:.2f}",
            "trained tokens": f"{sum(r.tokens_training for r in chosen) / count:,.0f}",
            "redundancy": f"{sum(r.redundancy for r in chosen) / count:.2f}",
            "peak MiB": f"{max(r.peak_memory for r in chosen) / 2**20:,.0f}",
            "documents": "0.0" if method == BASE else "2.0",
        }  # fmt: skip
        assert {key: table[method][key] for key in expected} == expected
    differences = [r for t in page.tables if "against" in t[0] for r in t[1:]]
    values = {tuple(cells[:2]): cells[2] for cells in differences if "." in cells[2]}
    f1 = {m: sum(r.scores["f1"] for r in rows if r.method == m) / len(prompts) for m in BITS}
    expected = f"{f1['ttft:sift'] - f1[BASE]:+.3f}".replace("-", "−")
    assert expected in {cells[2] for cells in differences if cells[:2] == ["ttft:sift", BASE]}
    assert ("ttft:sift", BASE) in values


@pytest.mark.slow
def test_each_k_has_its_table(write):
    rows = [replace(r, k=r.k and k, bits=r.bits - (k if r.k else 0)) for k in (1, 5, 10)
            for r in small_report().rows]  # fmt: skip
    rows = list({r.key: r for r in rows}.values())
    page, _ = write(report_of(rows), plots=True)
    tables = [t for t in page.tables if any("% of base" in line for line in t) and len(t) > 4]
    percents = [
        line[next(h for h in t if "% of base" in h).index("% of base")]
        for t in tables
        for line in t
        if line[0] == "ttft:sift" and "seconds" in next(h for h in t if "% of base" in h)
    ]
    total = sum(BITS["ttft:sift"])
    assert percents == [f"{100 * (total - 4 * k) / 800:.1f}" for k in (10, 1, 5)]
    assert page.count("svg") == 5
    assert "With 1 document " in page.text
    assert "With 5 documents" in page.text


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(write):
    page, text = write(small_report(), plots=True)
    links = [v for _, tag in page.tags for k, v in tag.items() if k.endswith(("src", "href"))]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.count("link") == 0
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


@pytest.mark.slow
def test_ids_are_unique_and_references_resolve(write):
    rows = small_report().rows + small_report(protocol="continuation").rows
    page, text = write(report_of(rows, leaks={"p1": "an exact copy in a"}), plots=True)
    ids = Counter(tag["id"] for _, tag in page.tags if "id" in tag)
    assert page.count("svg") == 8
    assert max(ids.values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= ids.keys()


@pytest.mark.slow
def test_every_text_is_escaped(write):
    attacked = document(ATTACK)
    rows = [
        row(method, f"{ATTACK}{group}", 100.0, ATTACK, f"{ATTACK}{group}", chosen=chosen,
            failure=failure, answer=ATTACK, scores={ATTACK: 0.5}, used_indices=())
        for group in "ab"
        for method, chosen, failure in (
            (BASE, (), None),
            (f"rag:{ATTACK}", (attacked, attacked), None),
            ("ttft:sift", (attacked,), ATTACK),
        )
    ]  # fmt: skip
    report = report_of(
        rows,
        texts={ATTACK: ATTACK},
        prompt_texts={f"{ATTACK}a": ATTACK},
        leaks={f"{ATTACK}a": ATTACK},
        settings={ATTACK: {"a": ATTACK}},
    )
    page, text = write(report, plots=True)
    assert page.count("script") == 2  # the script of the page, and its data
    assert text.count("<script") == 2
    assert text.count("&lt;script&gt;alert") > 20
    assert page.chosen["documents"] == [[ATTACK, ATTACK]]
    assert page.count("svg") == 3


@pytest.mark.slow
def test_a_failure_is_named_and_breaks_nothing(write):
    rows = [
        replace(r, bits=math.nan, failure="OutOfMemoryError: too large")
        if (r.method, r.prompt) == ("ttft:sift", "p2") or r.method == "rag:nearest"
        else r
        for r in small_report().rows
    ]
    page, text = write(report_of(rows), plots=True)
    assert "Failed: rag:nearest on 4 of 4, ttft:sift on 1 of 4 prompts." in page.text
    assert page.text.count("failed: OutOfMemoryError: too large") == 5
    assert page.table("failures")["ttft:sift"]["failures"] == "1"
    assert "nan" not in re.sub(r"isNaN", "", text).lower()


@pytest.mark.slow
@pytest.mark.parametrize("failing", [set(BITS), {BASE}])
def test_a_comparison_without_scores_still_has_a_page(write, failing):
    rows = [
        replace(r, bits=math.nan, failure="no", chosen=(), used_indices=())
        if r.method in failing
        else r
        for r in small_report().rows
    ]
    page, _ = write(report_of(rows), plots=True)
    assert "Nothing can be compared: fewer than two methods have a score." in page.text
    assert page.count("tr", **{"class": "best"}) == 0


def test_an_empty_report_has_a_page(write):
    page, _ = write(Report(rows=()), plots=True)
    assert "Comparison of 0 methods on 0 prompts" in page.text


def test_answers_need_no_bits(write):
    rows = [
        row(method, f"p{i}", math.nan, "qa", answer=f"{method} says {i}", bytes=0, tokens=0,
            scores={"exact_match": float(right), "f1": (1 + right) / 2})
        for method, rights in {BASE: (0, 0, 1), "rag:sift": (1, 1, 1), "mine": (0, 1, 1)}.items()
        for i, right in enumerate(rights)
    ]  # fmt: skip
    page, text = write(report_of(rows))
    table = page.table("exact_match", "f1")
    assert table["rag:sift"]["exact_match"] == "1.000"
    assert table["mine"]["f1"] == "0.833"
    assert "% of base" not in table[BASE]
    assert "rag:sift has the best mean, with exact_match 1.000" in page.text
    assert page.table("answer", "f1")["mine"]["answer"] == "mine says 0"
    assert "Answers side by side" in page.text
    assert "nan" not in re.sub(r"isNaN", "", text).lower()


def test_one_prompt_has_no_interval(write):
    page, text = write(report_of(row(method, "p", bits[0]) for method, bits in BITS.items()))
    assert "ttft:sift has the best mean, with 75.0 % of the base model's bits per byte" in page.text
    assert "a single source of prompts gives no interval" in page.text
    assert "nan" not in re.sub(r"isNaN", "", text).lower()


@pytest.mark.slow
def test_the_page_is_the_same_every_time(tmp_path):
    report = small_report()
    plots = {"document": draw_plots(report, "document")}
    first = html.write_html(report, tmp_path / "a.html", plots).path.read_bytes()
    second = html.write_html(report, tmp_path / "b.html", plots).path.read_bytes()
    assert first == second


def test_repeats_and_copies_are_marked(write):
    words = [f"word{n}" for n in range(40)]
    texts = {
        "a": " ".join(words[:20]),
        "b": " ".join(words[:20]).upper() + "!",  # a copy but for case and punctuation
        "c": " ".join([*words[:10], *words[20:26]]),  # 6 of its 12 runs of five words
        "d": " ".join([*words[:9], *words[30:37]]),  # 5 of them
        "e": "word0",
        "f": "word0.",
    }
    chosen = tuple(document(key) for key in "abacdef")
    rows = [row(BASE, "p", 200.0), row("ttft:sift", "p", 150.0, chosen=chosen, used_indices=(0,))]
    page, _ = write(report_of(rows, texts=texts))
    steps = page.chosen["lists"][0][0]["steps"]
    assert [(step[4], step[5]) for step in steps] == [
        ("", 0), ("copy", 1), ("repeat", 1), ("near copy", 1), ("", 0), ("", 0), ("copy", 6),
    ]  # fmt: skip


def test_a_list_contains_each_step_and_the_methods_that_did_not_use_it(write):
    chosen = (document("a", 0.4, 0.6), document("b", 0.1, 0.5, copies=7))
    rows = [row(BASE, "p", 200.0), row("rag:sift", "p", 150.0, chosen=chosen, used_indices=(0,)),
            row("ttft:sift", "p", 150.0, chosen=chosen)]  # fmt: skip
    page, _ = write(report_of(rows, texts={"a": "First.", "b": "Second."}))
    data = page.chosen
    ((documents,),) = data["lists"]
    names = [method[0] for method in data["methods"]]
    assert [names[number] for number in documents["methods"]] == ["rag:sift", "ttft:sift"]
    assert [data["documents"][step[0]] for step in documents["steps"]] == [
        ["a", "First."],
        ["b", "Second."],
    ]
    assert documents["steps"][0] == [0, 0.4, 0.6, 1, "", 0]
    assert documents["steps"][1] == [1, 0.1, 0.5, 7, "", 0, [names.index("rag:sift")]]
    assert documents["prior"] == 1.0


def test_nearest_neighbors_and_sift_come_first(write):
    methods = ["ttft:mmr", "rag:sift", "ttft:random", "ttft:sift", "rag:nearest", "ttft:nearest"]
    rows = [row(BASE, "p", 200.0)] + [
        row(method, "p", 150.0, chosen=(document(method),), used_indices=(0,)) for method in methods
    ]
    page, _ = write(report_of(rows))
    data = page.chosen
    order = [data["methods"][documents["methods"][0]][0] for documents in data["lists"][0]]
    assert order == [
        "ttft:nearest",
        "ttft:sift",
        "ttft:mmr",
        "rag:sift",
        "ttft:random",
        "rag:nearest",
    ]


def test_methods_with_the_same_choice_share_a_list(write):
    other = (document("a"), document("c"))
    base, rag, ttft = (row(m, "p", 150.0) for m in (BASE, "rag:sift", "ttft:sift"))
    assert len(document_lists(write(report_of([base, rag, ttft]))[0])) == 1
    assert len(document_lists(write(report_of([base, rag, replace(ttft, chosen=other)]))[0])) == 2
    nearest = replace(ttft, method="ttft:nearest")
    assert len(document_lists(write(report_of([base, rag, nearest]))[0])) == 2


def test_each_text_is_stored_once(write):
    rows = [row(m, f"p{i}", 100.0) for i in range(5) for m in (BASE, "rag:sift", "ttft:nearest")]
    _, text = write(report_of(rows, texts={"a": "A text that is stored once.", "b": "Other."}))
    assert text.count("A text that is stored once.") == 1


def test_many_prompts_are_not_all_shown(write):
    rows = [
        row(method, f"p{i}", 100.0, group="few" if i > 98 else "many")
        for i in range(102)
        for method in (BASE, "rag:sift")
    ]
    page, _ = write(report_of(rows))
    assert page.count("details", **{"class": "prompt"}) == 40
    assert "40 of 102 prompts are shown: the first of each group." in page.text
    assert all(f"p{i} " in page.text for i in (*range(37), 99, 100, 101))
    page, _ = write(report_of(rows[:80]))
    assert "prompts are shown" not in page.text


def test_leaks_are_reported_with_the_verdict_without_them(write):
    # The method improves only on the prompt that leaks.
    bits = {BASE: (200.0,) * 4, "rag:a": (100.0, 200.0, 200.0, 200.0)}
    report = replace(small_report(bits), leaks={"p0": "an exact copy in doc-7"})
    page, _ = write(report)
    assert "the store contains the scored text of 1 of 4 prompts" in page.text
    assert "an exact copy in doc-7" in page.text
    assert page.count("section", id="leaks") == 1
    assert "rag:a has the best mean, with 87.5 %" in page.text.split("Leaks The store")[0]
    assert "87.5" not in page.text.split("Without these prompts:")[1].split("1 prompt ")[0]
    assert write(small_report(bits))[0].count("section", id="leaks") == 0


def test_excluded_leaks_are_counted_without_a_second_verdict(write):
    leaks = {f"held{n}": "an exact copy in a" for n in range(5)}
    page, _ = write(replace(small_report(), leaks=leaks, settings={"leaks": "exclude"}))
    assert page.text.count("contains the scored text of 5 of 9 prompts; they are excluded.") == 2
    assert "Without these prompts" not in page.text


def test_without_a_gpu_the_page_has_no_memory(write):
    page, _ = write(small_report())
    assert "peak MiB" not in page.table("bits/byte")[BASE]
    assert "memory" not in page.text.lower()
    measured = [replace(r, peak_memory=2**30) for r in small_report().rows]
    page, _ = write(report_of(measured))
    assert page.table("bits/byte")[BASE]["peak MiB"] == "1,024"
    assert "GPU" in page.text
