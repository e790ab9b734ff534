"""The page of a report: complete, escaped, self-contained, the same every time."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from langchain_sift.comparison import html, plots
from langchain_sift.comparison.results import BASE, ChosenDocument, Report, Row

VOID = {"meta", "br", "hr", "img", "input", "link"}
ATTACK = "<script>alert(1)</script>"
# Bits on four prompts of 100 bytes. The base needs 800; each method its part of that.
BITS = {
    BASE: (200.0, 180.0, 220.0, 200.0),
    "rag:nearest": (190.0, 172.0, 208.0, 190.0),
    "ttft:nearest": (170.0, 152.0, 188.0, 170.0),
    "ttft:sift": (150.0, 134.0, 166.0, 150.0),
}


def document(name, gain=0.2, left=0.5, text="What it says.", copies=1):
    return ChosenDocument(name, text, gain, left, copies)


def row(method, prompt, bits, protocol="document", group="prose", **changes):
    chosen = () if method == BASE else (document("a", 0.4, 0.6), document("b", 0.3, 0.3))
    places = tuple(range(len(chosen)))
    made = Row(
        protocol=protocol,
        prompt=prompt,
        group=group,
        method=method,
        bits=bits,
        bytes=100,
        seconds_answering=0.5,
        chosen=chosen,
        used_places=places,
        prior_variance=1.0 if chosen else math.nan,
    )
    return replace(made, **changes)


def report_of(rows, **settings):
    return Report(rows=tuple(rows), settings=settings)


def small_report(bits=BITS, protocol="document"):
    return report_of(
        row(method, f"p{i}", value, protocol, "prose" if i < 2 else "code")
        for method, values in bits.items()
        for i, value in enumerate(values)
    )


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)


@pytest.fixture
def write(tmp_path):
    def written(report):
        text = html.write_html(report, tmp_path / "report.html").path.read_text("utf-8")
        return Page(text), text

    return written


def test_the_page_holds_tables_plots_and_prompts(write):
    page, _ = write(small_report())
    assert page.count("table", **{"class": "sortable"}) == 3  # all prompts, and two groups
    assert page.count("svg") == 3
    assert page.count("details", **{"class": "prompt"}) == 4
    assert page.count("tr", **{"class": "best"}) == 3
    assert "Comparison of 4 methods on 4 prompts" in page.text


def test_the_report_knows_its_page(tmp_path):
    report = small_report()
    written = html.write_html(report, tmp_path / "page.html")
    assert written == replace(report, path=tmp_path / "page.html")


def test_nothing_is_loaded_from_elsewhere(write):
    page, text = write(small_report())
    links = [v for _, found in page.tags for k, v in found.items() if k.endswith(("src", "href"))]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.count("link") == 0
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_no_id_is_used_twice_and_every_reference_has_one(write):
    rows = small_report().rows + small_report(protocol="continuation").rows
    page, text = write(report_of(rows))
    ids = Counter(found["id"] for _, found in page.tags if "id" in found)
    assert page.count("svg") == 6
    assert max(ids.values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= ids.keys()


def test_every_text_is_escaped(write):
    attacked = document(ATTACK, text=ATTACK)
    rows = [
        row(method, ATTACK, 100.0, ATTACK, f"{ATTACK}{group}", chosen=chosen, failure=failure)
        for group in "ab"
        for method, chosen, failure in (
            (BASE, (), None),
            (f"rag:{ATTACK}", (attacked, attacked), None),
            ("ttft:sift", (attacked,), ATTACK),
        )
    ]
    page, text = write(report_of(replace(r, used_places=()) for r in rows))
    assert page.count("script") == 1  # the page's own
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;alert") > 20

    page, text = write(report_of(small_report().rows, **{ATTACK: {"a": ATTACK}}))
    assert page.count("script") == 1
    assert text.count("&lt;script&gt;alert") == 2


def test_a_failure_is_named_and_breaks_nothing(write):
    rows = [
        replace(r, bits=math.nan, failure="OutOfMemoryError: too large")
        if (r.method, r.prompt) == ("ttft:sift", "p2") or r.method == "rag:nearest"
        else r
        for r in small_report().rows
    ]
    page, text = write(report_of(rows))
    assert "Failed: rag:nearest on 4 of 4 prompts, ttft:sift on 1 of 4 prompts." in page.text
    assert page.text.count("failed: OutOfMemoryError: too large") == 5
    assert "nan" not in text.lower()
    assert plots.percent_of_base(report_of(rows), "document").count("not scored") == 3
    assert page.count("svg") == 3


@pytest.mark.parametrize("failing", [set(BITS), {BASE}])
def test_a_comparison_without_scores_still_has_a_page(write, failing):
    rows = [
        replace(r, bits=math.nan, failure="no", chosen=(), used_places=())
        if r.method in failing
        else r
        for r in small_report().rows
    ]
    page, _ = write(report_of(rows))
    assert "There are no two methods to compare" in page.text
    assert plots.quality_against_seconds(report_of(rows), "document") == ""
    assert page.count("tr", **{"class": "best"}) == 0


def test_one_prompt_has_no_standard_error(write):
    page, text = write(report_of(row(method, "p", bits[0]) for method, bits in BITS.items()))
    assert "ttft:sift needs the fewest bits per byte, 75.0 % (± –)" in page.text
    assert "on one prompt there is no standard error" in page.text
    assert page.count("table", **{"class": "sortable"}) == 1
    assert "NaN" not in text
    assert "nan" not in text


def test_the_page_is_the_same_every_time(tmp_path):
    report = small_report()
    first = html.write_html(report, tmp_path / "a.html").path.read_bytes()
    second = html.write_html(report, tmp_path / "b.html").path.read_bytes()
    assert first == second


def test_a_document_that_was_chosen_before_is_marked(write):
    once, again = document("a", 0.4, 0.6), document("a", 0.1, 0.5, copies=7)
    repeated = (once, document("b"), again, again)
    rows = [row(BASE, "p", 200.0), row("ttft:sift", "p", 150.0)]
    page, _ = write(report_of([rows[0], replace(rows[1], chosen=repeated)]))
    assert page.count("span", **{"class": "again"}) == 1 + 2  # the explanation, two repeats
    assert re.search(r"3\. a again .*7 copies; not used by ttft:sift 4\. a again", page.text)
    page, _ = write(report_of(rows))
    assert page.count("span", **{"class": "again"}) == 1


def test_one_list_serves_methods_that_chose_the_same(write):
    other = (document("a"), document("c"))
    base, rag, ttft = (row(m, "p", 150.0) for m in (BASE, "rag:sift", "ttft:sift"))
    assert write(report_of([base, rag, ttft]))[0].count("ol") == 1
    assert write(report_of([base, rag, replace(ttft, chosen=other)]))[0].count("ol") == 2
    nearest = replace(ttft, method="ttft:nearest")
    assert write(report_of([base, rag, nearest]))[0].count("ol") == 2


def test_a_list_of_one_protocol_names_it(write):
    other = (document("a"), document("c"))
    rows = [row("rag:sift", "p", 150.0), row("rag:sift", "p", 150.0, "continuation")]
    assert "rag:sift under" not in write(report_of(rows))[0].text
    page, _ = write(report_of([rows[0], replace(rows[1], chosen=other)]))
    assert "rag:sift under document" in page.text
    assert "rag:sift under continuation" in page.text


def test_many_prompts_are_not_all_shown(write):
    rows = [row(method, f"p{i}", 100.0) for i in range(41) for method in (BASE, "rag:sift")]
    page, _ = write(report_of(rows))
    assert page.count("details", **{"class": "prompt"}) == 40
    assert "The first 40 of 41 prompts are shown." in page.text
    page, _ = write(report_of(rows[:80]))
    assert "are shown" not in page.text


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        (BITS, r"ttft:sift needs the fewest .* 75\.0 % .* 85\.0 % .* ttft:nearest; on 4 prompts "
               r"the difference of 10\.0 ± 0\.\d points is more than two standard errors\."),
        ({BASE: (200.0, 200.0), "rag:a": (150.0, 170.0), "rag:b": (165.0, 157.0)},
         r"rag:a needs the fewest .*; but on 2 prompts the difference of 0\.5 ± 7\.0 points is "
         r"within two standard errors: the two cannot be told apart\."),
        ({BASE: (200.0, 200.0), "rag:a": (210.0, 211.0)},
         r"No method improved on the base model; the closest, rag:a, needs 105\.2 % .* more than"),
        ({BASE: (200.0, 200.0), "rag:a": (190.0, 191.0)},
         r"Only rag:a improved on the base model, with 95\.2 % .* more than"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_is_certain(bits, sentence):
    said = html.verdict(small_report(bits), "document").replace("\N{NO-BREAK SPACE}", " ")
    assert re.fullmatch(f"{sentence}.*", said)


def test_the_verdict_pairs_prompts():
    # Prompts differ far more than the methods do, and in the same way for both.
    hard_and_easy = {BASE: (100.0,) * 3, "rag:a": (50.0, 70.0, 90.0), "rag:b": (55.0, 75.1, 95.0)}
    report = small_report(hard_and_easy)
    assert report.summary("document")["rag:a"].standard_error > 10
    assert "more than two standard errors" in html.verdict(report, "document")


def test_a_course_is_padded_by_its_last_value():
    short, long = (document("a", 0.2, 0.8),), (document("a", 0.4, 0.6), document("b", 0.4, 0.2))
    rows = [
        replace(row("rag:sift", f"p{i}", 100.0), chosen=chosen, used_places=(0,))
        for i, chosen in enumerate((short, long))
    ]
    courses = plots._courses(rows)
    assert courses == {("sift", (100.0, 70.0, 50.0)): ["rag:sift"]}


def test_plots_take_the_color_of_the_page_and_any_name():
    rows = [row(m, p, 150.0, group=g) for g in ("$a$ & 中文", "b") for p in "pq"
            for m in (BASE, "ttft:sift")]  # fmt: skip
    rows = [replace(r, prompt=f"{r.group}{r.prompt}") for r in rows]
    svg = plots.percent_of_base(report_of(rows), "document")
    assert "$a$ &amp; 中文" in svg
    assert "currentColor" in svg
    assert plots.method_color("ttft:sift") in svg
    assert "#000000" not in svg
    assert "<style" not in svg
