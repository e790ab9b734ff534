"""Test the page of a report in a real browser: it works, logs no errors and loads nothing.

Each test runs a script in a copy of the page, and reads the result that the script writes into it.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape

import pytest

from langchain_sift.report.html import write_html
from langchain_sift.report.plots.plots import draw_plots
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, ChosenDocument, Row

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.needs(*BROWSERS)

METHODS = (BASE, "rag:nearest", "ttft:nearest", "ttft:sift", "ttft:sift:noise_variance=0.1")
HOSTILE = "</script><script>console.error('escaped')</script><img src=x onerror=alert(1)>"
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
    "--v=0",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1280,900",
)


def example():
    """Return a report of two groups, two ks and 14 documents each, one of which is repeated."""
    rng = random.Random(0)
    rows = []
    for i in range(6):
        for method in METHODS:
            for k in (0,) if method == BASE else (3, 14):
                order = rng.sample(range(20), k)
                if method == "ttft:sift" and k:
                    order[1] = order[0]
                chosen = tuple(
                    ChosenDocument(f"d{n}", 0.05, 0.9 - 0.05 * step, 1)
                    for step, n in enumerate(order)
                )
                rows.append(
                    Row(
                        "document",
                        f"p{i}",
                        "prose" if i < 3 else "code",
                        method,
                        k,
                        bits=rng.uniform(100, 200),
                        bytes=100,
                        tokens=25,
                        answer=HOSTILE if method == "ttft:sift" else "an answer",
                        seconds_answering=rng.random(),
                        chosen=chosen,
                        used_indices=tuple(range(k)),
                        prior_variance=1.0 if k else math.nan,
                    )
                )
    texts = {f"d{n}": f"Text {n}. {HOSTILE}" for n in range(20)}
    prompts = {f"p{i}": f"About {'rice' if i % 2 else 'wheat'} {HOSTILE}" for i in range(6)}
    relevant = {"p2": ("d1", "d2", "d3", HOSTILE)}
    return Report(tuple(rows), {"model": HOSTILE}, texts, prompts, {"p1": HOSTILE}, relevant)


@dataclass
class Visit:
    """The result of a script, the page after it, and the messages of the console."""

    result: object
    dom: str
    console: list[str]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    report = example()
    plots = {"document": draw_plots(report, "document")}
    written = write_html(report, tmp_path_factory.mktemp("page") / "report.html", plots)
    return written.path.read_text("utf-8")


@pytest.fixture
def visit(page, tmp_path):
    """Return a function that runs a script in a copy of the page, and returns its result."""

    def run_script(script="return null", *switches, change=lambda text: text):
        run = (
            "<pre id='result'></pre><script>addEventListener('load', () => setTimeout(async () => {"
            f"const result = await (async () => {{ {script} }})();"
            "document.getElementById('result').textContent = JSON.stringify(result);"
            "}, 50));</script>"
        )
        copy = tmp_path / "copy.html"
        copy.write_text(change(page).replace("</body>", f"{run}</body>"), encoding="utf-8")
        done = subprocess.run(
            [BROWSER, *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}", *switches, "--dump-dom",
             copy.as_uri()],
            capture_output=True, encoding="utf-8", timeout=120, check=True,
        )  # fmt: skip
        result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
        assert result, done.stderr
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Visit(json.loads(unescape(result[1])), done.stdout, console)

    return run_script


# Functions for the scripts: the lines of the first table, the number of visible prompts, a pause.
TOOLS = """
const first = document.querySelector("table.sortable");
const heads = [...first.tHead.rows].at(-1).cells;
const texts = row => [...row.cells].map(cell => cell.textContent);
const lines = () => [...first.tBodies[0].rows].map(texts);
const prompts_of_page = [...document.querySelectorAll(".prompt")];
const shown = () => prompts_of_page.filter(prompt => prompt.offsetParent !== null).length;
const pause = () => new Promise(resume => setTimeout(resume, 100));
const type = text => {
  const filter = document.getElementById("filter");
  filter.value = text;
  filter.dispatchEvent(new Event("input", {bubbles: true}));
};
const open = async () => { document.querySelector(".prompt > summary").click(); await pause(); };
"""


def test_an_error_is_logged(visit):
    assert visit("console.error('seen'); return 1").console


def test_the_page_opens_without_errors_and_loads_nothing(visit):
    visited = visit("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert visited.console == []
    assert visited.result == []


@pytest.mark.parametrize("heading", ["% of base", "seconds", "method"])
def test_a_table_is_sorted_by_a_column_in_both_directions(visit, heading):
    visited = visit(
        TOOLS
        + f"""
        const column = [...heads].findIndex(head => head.textContent === {json.dumps(heading)});
        const button = heads[column].querySelector("button");
        const results = [column];
        for (let turn = 0; turn < 2; turn++) {{
          button.click();
          results.push([heads[column].getAttribute("aria-sort"), lines()]);
        }}
        return results;"""
    )
    column, (up, rising), (down, falling) = visited.result
    assert (up, down) == ("ascending", "descending")
    assert {line[0] for line in rising} == set(METHODS)
    values = [line[column] if heading == "method" else float(line[column]) for line in rising]
    assert values == sorted(values)
    assert [line[column] for line in falling] == [line[column] for line in rising][::-1]
    assert visited.console == []


def test_an_opened_prompt_lists_its_documents(visit):
    visited = visit(
        TOOLS
        + """
        const before = document.querySelectorAll(".lists li").length;
        await open();
        const prompt = document.querySelector(".prompt");
        const columns = [...prompt.querySelectorAll(".lists > .choices > div")];
        const items = () => columns[1].querySelectorAll("li").length;
        const few = items();
        columns[1].querySelector("button").click();
        const rest = prompt.querySelector(".lists details > summary");
        rest.click();
        await pause();
        return [before, columns.map(column => column.querySelector("h4").textContent), few, items(),
          [...columns[1].querySelectorAll(".mark")].map(mark => mark.textContent).slice(0, 1),
          columns[1].querySelector("li .text").textContent,
          columns[1].querySelector(".totals").textContent,
          prompt.querySelectorAll(".lists details .choices > div").length,
          document.querySelectorAll(".lists img").length];"""
    )
    before, titles, few, all_of_them, marks, text, totals, others, images = visited.result
    first = next(r for r in example().rows if r.key == ("document", "p0", "ttft:sift", 14))
    assert (before, few, all_of_them) == (0, 10, 14)
    assert "nearest" in titles[0]
    assert titles[1] == "ttft:sift"
    assert marks == ["repeat of 1"]
    assert text == example().texts[first.chosen[0].id]
    distinct = len({document.id for document in first.chosen})
    repeats = 14 - distinct
    count = f"{repeats} repeat{'' if repeats == 1 else 's'}"
    assert totals.startswith(f"14 chosen, {distinct} distinct, {count}, ")
    assert totals.endswith("25 % of the variance remains")
    assert others == 2
    assert images == 0
    assert visited.console == []


def test_relevant_documents_are_marked(visit):
    visited = visit(
        TOOLS
        + """
        const prompt = prompts_of_page[2];
        prompt.querySelector("summary").click();
        await pause();
        const [column] = prompt.querySelectorAll(".lists > .choices > div");
        column.querySelector("button").click();
        const items = [...column.querySelectorAll("li")];
        const marked = items.filter(item => item.querySelector(".relevant"));
        await open();
        return [marked.map(item => item.querySelector(".id").textContent),
          column.querySelector(".totals").textContent,
          prompts_of_page[0].querySelectorAll(".lists .relevant").length];"""
    )
    marked, totals, unlabelled = visited.result
    first = next(r for r in example().rows if r.key == ("document", "p2", "ttft:nearest", 14))
    expected = [document.id for document in first.chosen if document.id in {"d1", "d2", "d3"}]
    assert marked == expected
    assert f"{len(expected)} of 4 relevant" in totals
    assert unlabelled == 0
    assert visited.console == []


def test_the_filter_finds_prompts_by_id_group_and_text(visit):
    visited = visit(
        TOOLS
        + """
        const results = [shown()];
        for (const text of ["p3", "CODE", "wheat", "rice prose", "nowhere", ""]) {
          type(text);
          results.push([shown(), document.getElementById("matches").textContent]);
        }
        return results;"""
    )
    assert visited.result == [
        6, [1, "1 of 6 prompts"], [3, "3 of 6 prompts"], [3, "3 of 6 prompts"],
        [1, "1 of 6 prompts"], [0, "0 of 6 prompts"], [6, ""],
    ]  # fmt: skip
    assert visited.console == []


def test_a_narrow_page_does_not_scroll_sideways(visit):
    visited = visit(
        TOOLS
        + """
        await open();
        const frame = document.createElement("iframe");
        frame.style.cssText = "width: 360px; height: 800px; border: 0";
        frame.srcdoc = "<!doctype html>" + document.documentElement.outerHTML;
        document.body.append(frame);
        await new Promise(resume => frame.addEventListener("load", resume));
        const inside = frame.contentDocument.scrollingElement;
        return [inside.clientWidth, inside.scrollWidth];""",
        change=lambda text: text.replace("default-src 'none'", "default-src 'self' data:"),
    )
    width, content = visited.result
    assert width <= 360
    assert content <= width


@pytest.mark.parametrize("width", [400, 1400])
def test_long_headings_stay_within_their_columns(visit, tmp_path, width):
    names = ["high_school_government_and_politics", "Donaudampfschifffahrtskapitän", "math"]
    rows = [
        Row("qa", f"{group}{n}", group, method, answer="a", scores=dict.fromkeys(names, 0.5))
        for group in names
        for method in (BASE, "rag:sift")
        for n in range(2)
    ]
    page = write_html(Report(tuple(rows)), tmp_path / "report.html", {}).path.read_text("utf-8")
    visited = visit(
        """
        return [...document.querySelectorAll("thead th button")].map(button => {
          const inner = button.getBoundingClientRect();
          const outer = button.parentElement.getBoundingClientRect();
          return [button.textContent, inner.left - outer.left, outer.right - inner.right];
        });""",
        f"--window-size={width},900",
        change=lambda _: page,
    )
    assert {*names, *(f"{name} (2)" for name in names)} <= {text for text, *_ in visited.result}
    assert [text for text, *rest in visited.result if min(rest) < -0.5] == []


def test_a_dark_page_has_light_ink(visit):
    def brightness(change):
        visited = visit(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]",
            change=change,
        )
        return [sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in visited.result]

    ink, ground = brightness(lambda text: text)
    assert ink < 60
    assert ground > 240
    dark = "(prefers-color-scheme: dark)"
    ink, ground = brightness(lambda text: text.replace(dark, "(min-width: 1px)"))
    assert ink > 200
    assert ground < 60


def test_all_controls_are_reachable_by_keyboard(visit):
    visited = visit(
        TOOLS
        + """
        await open();
        const controls = [...document.querySelectorAll("button, summary, input, a, .scroll")];
        return controls.filter(control => control.tabIndex < 0).length;"""
    )
    assert visited.result == 0
