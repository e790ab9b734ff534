"""Test the content, the style and the files of the plots."""

from __future__ import annotations

import math
import random
import re
import struct
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from langchain_sift.report.plots import plots
from langchain_sift.report.plots import quality as quality_plots
from langchain_sift.report.plots import uncertainty as uncertainty_plots
from langchain_sift.report.plots.axes import MAX_LABEL, label
from langchain_sift.report.plots.method_styles import INK, method_style
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row

SELECTIONS = ("sift", "nearest", "nearest-repeated", "mmr", "uncertainty", "hull", "random")
VARIANTS = (
    "ttft:sift:residual",
    "ttft:sift:exhaustive",
    "ttft:sift:noise_variance=0.1",
    "ttft:sift:stopping_alpha=0.5",
)


def row(method, prompt, bits, k=2, *, group="prose", **changes):
    k = 0 if method == BASE else k
    chosen = tuple(ChosenDocument(f"d{n}", 0.1, 0.9 - 0.1 * n, 1) for n in range(k))
    scored = Row(
        protocol="document",
        prompt=prompt,
        group=group,
        method=method,
        k=k,
        bits=bits,
        bytes=100,
        seconds_answering=0.5,
        seconds_training=0.1 * k,
        chosen=chosen,
        used_indices=tuple(range(k)),
        prior_variance=1.0 if k else math.nan,
    )
    return replace(scored, **changes)


def report_of(methods=("rag:nearest", "ttft:sift"), ks=(2,), groups=("prose",), **changes):
    rng = random.Random(0)
    rows = [
        replace(row(method, f"{group}{i}", rng.uniform(100, 200), k, group=group), **changes)
        for group in groups
        for i in range(3)
        for k in ks
        for method in (BASE, *methods)
    ]
    return Report(rows=tuple({r.key: r for r in rows}.values()))


def names(report, protocol="document"):
    return [plot.name.partition("-")[2] for plot in plots.draw_plots(report, protocol)]


def drawn(report):
    return {p.name.partition("-")[2]: p for p in plots.draw_plots(report, "document")}


@pytest.mark.slow
def test_plots_without_data_are_not_drawn():
    assert names(report_of()) == ["groups", "seconds", "variance", "sigma"]
    assert names(report_of(ks=(1, 2))) == ["groups", "documents", "seconds", "variance", "sigma"]
    assert names(report_of(methods=("rag:nearest",))) == ["groups", "seconds", "variance"]
    assert names(report_of(methods=())) == []
    assert names(report_of(failure="no", bits=math.nan, chosen=(), used_indices=())) == []
    answers = report_of(
        protocol="qa", bits=math.nan, scores={"f1": 0.5}, chosen=(), used_indices=()
    )
    assert names(answers, "qa") == ["groups", "seconds"]


@pytest.mark.slow
def test_answers_are_plotted_by_their_metric():
    first, *others = report_of(scores={"f1": 0.5, "other": 0.1}).rows
    rows = (replace(first, scores={"f1": 0.6, "other": 0.1}), *others)
    plot = drawn(Report(rows=rows))["seconds"]
    assert ">f1</text>" in plot.svg
    assert "higher is better" in plot.caption


@pytest.mark.slow
def test_every_plot_labels_its_methods():
    report = report_of(methods=("rag:nearest", "ttft:sift", *VARIANTS), ks=(1, 5, 10))
    by_name = drawn(report)
    for name in ("groups", "documents", "seconds", "sigma"):
        text = by_name[name].svg
        assert [m for m in ("ttft:sift", *VARIANTS) if f">{m}</text>" not in text] == []
    assert all(f">{k}</text>" in by_name["documents"].svg for k in (1, 5, 10))


def test_each_method_has_a_different_style():
    methods = [
        BASE, "mine", *VARIANTS, *(f"{m}:{s}" for m in ("rag", "ttft", "both") for s in SELECTIONS)
    ]  # fmt: skip
    styles = [(s.color, s.marker, s.hollow) for s in map(method_style, methods)]
    assert len(set(styles)) == len(styles)
    assert all(method_style(m).hollow for m in VARIANTS)
    few = method_style("both:sift:context_k=2")
    assert few.hollow
    assert (few.color, few.marker) == (
        method_style("both:sift").color,
        method_style("both:sift").marker,
    )
    assert few.dashes != method_style("both:sift").dashes
    assert not any(method_style(m).hollow for m in methods if m not in VARIANTS)
    assert method_style(BASE).color == INK


def test_a_selection_has_a_color_and_a_mode_has_a_marker():
    for selection in (*SELECTIONS, "mine"):
        styles = [method_style(f"{mode}:{selection}") for mode in ("rag", "ttft", "both")]
        assert len({style.color for style in styles}) == 1
        assert len({style.marker for style in styles}) == 3
        assert len({style.dashes for style in styles}) == 3


def lightness(color):
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#fdfdfb", "#15171a"])
def test_colors_have_contrast_on_light_and_dark_pages(ground):
    methods = [*VARIANTS, *(f"ttft:{s}" for s in SELECTIONS), *(f"rag:user{n}" for n in range(20))]
    for method in methods:
        lighter, darker = sorted(map(lightness, (method_style(method).color, ground)))[::-1]
        assert (lighter + 0.05) / (darker + 0.05) >= 3, method  # WCAG 1.4.11


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("lower_is_better", [True, False])
def test_no_method_beats_the_pareto_front(seed, lower_is_better):
    rng = random.Random(seed)
    points = {f"m{i}": (rng.randint(0, 6), rng.randint(0, 6)) for i in range(rng.randint(1, 12))}
    sign = 1 if lower_is_better else -1

    def beats(method, other):
        (s, q), (t, r) = points[method], points[other]
        return s <= t and sign * q <= sign * r and points[method] != points[other]

    expected = {m for m in points if not any(beats(other, m) for other in points)}
    front = quality_plots.pareto_front(points, lower_is_better=lower_is_better)
    assert set(front) == expected
    assert list(front) == sorted(front, key=lambda m: points[m][0])


@pytest.mark.slow
def test_the_caption_names_the_pareto_front():
    # Slower and no better: not in it.
    rows = [row(BASE, "p", 200.0), row("rag:a", "p", 150.0), row("rag:b", "p", 160.0)]
    rows[2] = replace(rows[2], seconds_answering=0.6)
    caption = drawn(Report(rows=tuple(rows)))["seconds"].caption
    assert caption.endswith("beats in both: base, rag:a.")


def test_a_variance_curve_is_padded_with_its_last_value():
    def chosen(*variances):
        return tuple(ChosenDocument(f"d{n}", 0.1, left, 1) for n, left in enumerate(variances))

    rows = [
        row("rag:sift", "p", 100.0, chosen=chosen(0.8)),
        row("rag:sift", "q", 100.0, chosen=chosen(0.6, 0.2)),
        row("rag:mine", "q", 100.0, chosen=chosen(math.nan)),
    ]
    assert uncertainty_plots._curves(rows) == {("sift", (100.0, 70.0, 50.0)): ["rag:sift"]}


@pytest.mark.slow
def test_the_caption_contains_the_rank_correlation():
    rng = random.Random(1)
    points = [(rng.random(), rng.uniform(50, 150)) for _ in range(9)]
    rows = []
    for i, (sigma, bits) in enumerate(points):
        last = (ChosenDocument("a", 0.1, sigma**2, 1),)
        rows += [row(BASE, f"p{i}", 100.0), row("ttft:sift", f"p{i}", bits, 1, chosen=last)]
    # Kendall's and Spearman's textbook formula, without ties: 1 - 6 sum d² / (n (n² - 1)).
    ranks = [{x: n for n, x in enumerate(sorted(column))} for column in zip(*points, strict=True)]
    squares = sum((ranks[0][s] - ranks[1][b]) ** 2 for s, b in points)
    expected = 1 - 6 * squares / (9 * 80)
    caption = drawn(Report(rows=tuple(rows)))["sigma"].caption.replace("−", "-")
    match = re.search(r"ttft:sift (-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)", caption)
    assert float(match[1]) == pytest.approx(expected, abs=0.006)
    assert float(match[2]) <= expected <= float(match[3])


@pytest.mark.slow
def test_many_groups_show_only_the_best_methods():
    methods = tuple(f"{mode}:{s}" for mode in ("rag", "ttft") for s in SELECTIONS)
    report = report_of(methods=methods, groups=tuple(f"group {n}" for n in range(13)))
    plot = drawn(report)["groups"]
    assert "Each group shows only the 3 best methods of all prompts." in plot.caption
    assert len(re.findall(r">(?:rag|ttft):[a-z-]+</text>", plot.svg)) == 14 + 13 * 3
    assert "Each group" not in drawn(report_of(groups=("a", "b")))["groups"].caption


@pytest.mark.slow
def test_plots_use_the_text_color_of_the_page_and_accept_any_name():
    groups = ("$a$ & 中文", "b")
    svg = drawn(report_of(groups=groups))["groups"].svg
    assert "$a$ &amp; 中文" in svg
    assert "currentColor" in svg
    assert method_style("ttft:sift").color in svg
    assert "#000000" not in svg
    assert INK not in svg
    assert "<style" not in svg
    assert label("a\nb" * 40).endswith("…")
    assert len(label("a\nb" * 40)) == MAX_LABEL


def test_the_options_of_a_long_name_are_shortened():
    long = "ttft:sift:kernel=rbf:length_scale=0.35:noise_variance=0.1"
    assert label(long) == "ttft:sift:rbf:ℓ=0.35:λ'=0.1"
    assert label("sift:stopping_alpha=2") == "sift:stopping_alpha=2"


@pytest.mark.slow
def test_an_svg_file_is_self_contained():
    for plot in plots.draw_plots(report_of(ks=(1, 2)), "document"):
        root = ElementTree.fromstring(plot.file)  # noqa: S314 - our own
        assert root.tag.endswith("svg")
        assert float(root.attrib["width"].removesuffix("pt")) == 360
        ground = root[0]
        assert ground.tag.endswith("rect")
        assert (ground.attrib["fill"], ground.attrib["width"]) == ("#ffffff", "100%")
        assert "currentColor" not in plot.file
        assert not re.search(r'(?:href|src)="(?!#)', plot.file)
        assert plot.png.startswith(b"\x89PNG")
        width, _ = struct.unpack(">II", plot.png[16:24])
        assert width == 5 * 150


@pytest.mark.slow
def test_file_names_are_safe_and_unique():
    rows = [replace(r, protocol="../a b") for r in report_of().rows]
    drawn_plots = plots.draw_plots(Report(rows=tuple(rows)), "../a b")
    assert all(re.fullmatch(r"[\w-]+", plot.name) for plot in drawn_plots)
    assert not any(a.name == b.name for a, b in combinations(drawn_plots, 2))


@pytest.mark.slow
def test_the_same_report_gives_the_same_plots():
    assert plots.draw_plots(report_of(), "document") == plots.draw_plots(report_of(), "document")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["documents", "seconds"])
def test_no_label_is_cut_off(name, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "png_of", lambda figure: figures.append(figure) or b"")
    long = (
        "ttft:sift:kernel=rbf:length_scale=0.35:noise_variance=0.1",
        "rag:retriever_with_a_name_that_is_too_long",
    )
    narrow = report_of(ks=(1, 5), methods=(*VARIANTS, *long))
    wide = [replace(row, bits=1000 + row.bits / 1000) for row in narrow.rows]
    for report in (narrow, Report(rows=tuple(wide))):
        figures.clear()
        drawn_names = [plot.name.partition("-")[2] for plot in plots.draw_plots(report, "document")]
        figure = figures[drawn_names.index(name)]
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
