"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from langchain_sift.comparison import markdown
from langchain_sift.comparison.markdown import Column, Finding
from langchain_sift.comparison.methods import BASE
from langchain_sift.comparison.plots import Plot, draw_plots
from langchain_sift.comparison.results import PERCENT_OF_BASE, Report, Row
from langchain_sift.comparison.statistics import Difference
from langchain_sift.comparison.svg import INK, method_style
from langchain_sift.extras import require

require("compare", "jinja2")

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: E402

_MOST_PROMPTS = 40  # that can be browsed: a page of many more is slow to open
_LONGEST_TEXT = 1_000  # characters of a document
_MOST_TEXT = 6_000_000  # characters of all documents
_SHINGLE = 5  # words in a row
_ALIKE = 0.5  # share of a text's shingles from which on it says again what another has said
_WORD = re.compile(r"\w+")


def write_html(
    report: Report,
    path: Path,
    *,
    findings: Sequence[Finding] | None = None,
    plots: Mapping[str, Sequence[Plot]] | None = None,
) -> Report:
    """Write a report as one HTML file that loads nothing from elsewhere.

    The same report gives the same file, byte for byte.

    Args:
        report: What to write.
        path: The file; one that exists is replaced.
        findings: What `markdown.find` found in it, where that is known.
        plots: What `draw_plots` drew for each protocol, where that is known.

    Returns:
        The report, with `path` set.
    """
    findings = markdown.find(report) if findings is None else findings
    plots = {p: draw_plots(report, p) for p in report.protocols} if plots is None else plots
    environment = Environment(
        loader=PackageLoader("langchain_sift", "comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "key": lambda value: repr(float(value)) if math.isfinite(value) else "",
        "metric": markdown.metric_name,
        "number": markdown.number,
        "setting": markdown.setting,
        "signed": markdown.signed,
        "swatch": _swatch,
        "color": _color,
    }
    prompts = _by_prompt(report)
    shown = _shown(list(dict.fromkeys((row.prompt, row.group) for row in report.rows)))
    chosen = _Chosen(report)
    html = environment.get_template("report.html.jinja").render(
        report=report,
        number_of_prompts=len({row.prompt for row in report.rows}),
        prompts=[_prompt(report, *one, prompts.get(one, {}), chosen) for one in shown],
        protocols=[_protocol(report, one, plots.get(one.protocol, ())) for one in findings],
        leaks_told=markdown.leaks_told(report),
        columns=_explained(report),
        documents=chosen.json(),
        nothing=math.nan,
    )
    # Text of documents may hold lone surrogates, which UTF-8 has no bytes for.
    path.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    return replace(report, path=path)


def _explained(report: Report) -> list[Column]:
    """Return the columns of all tables, each heading once."""
    summaries = chain.from_iterable(report.summary(p).values() for p in report.protocols)
    return list({column.heading: column for column in markdown.columns(summaries)}.values())


def _color(method: str) -> str:
    color = method_style(method).color
    return "currentColor" if color == INK else color


def _swatch(method: str) -> str:
    """Return the classes of a method's sign."""
    style = method_style(method)
    return f"swatch {style.mode}{' hollow' if style.hollow else ''}"


def _protocol(report: Report, finding: Finding, plots: Sequence[Plot]) -> dict[str, Any]:
    protocol, metrics = finding.protocol, report.metrics(finding.protocol)
    metric = next(iter(metrics), PERCENT_OF_BASE)
    by_group = markdown.groups_of(report, protocol)
    return {
        "name": protocol,
        "verdict": finding.verdict,
        "without_leaks": markdown.without_leaks(report, protocol) if report.leaks else "",
        "failures": markdown.failures(report, protocol),
        "best": finding.best,
        "prompts": report.prompts(protocol),
        "table": _table(report, protocol, None, brief=False),
        "others": {k: _table(report, protocol, k, brief=True) for k in report.ks[:-1]},
        "metric": metric,
        "decimals": markdown.decimals_of(metric),
        "groups": {group: report.prompts(protocol, group) for group in by_group},
        "by_group": {
            method: [markdown.quality(own.get(method), metric) for own in by_group.values()]
            for method in report.summary(protocol)
            if by_group
        },
        "differences": {
            name: [(one, _bar(one, own)) for one in own]
            for name, own in finding.differences.items()
            if own
        },
        "plots": plots,
    }


def _table(report: Report, protocol: str, k: int | None, *, brief: bool) -> dict[str, Any]:
    summaries = report.summary(protocol, k=k)
    columns = markdown.columns(summaries.values(), brief=brief)
    kinds = dict.fromkeys(column.kind for column in columns)
    return {
        "columns": columns,
        "kinds": {kind: sum(column.kind == kind for column in columns) for kind in kinds},
        "rows": {
            method: [column.of(summary) for column in columns]
            for method, summary in summaries.items()
        },
    }


def _bar(
    difference: Difference, among: Iterable[Difference]
) -> tuple[float, float, float, float] | None:
    """Return an interval's beginning, length and value, and 0, in percent of the cell's width."""
    known = [one.interval for one in among if math.isfinite(one.interval.low)]
    lowest = min((0.0, *(one.low for one in known)))
    width = max((0.0, *(one.high for one in known))) - lowest
    interval = difference.interval
    if not width > 0 or not math.isfinite(interval.low):
        return None
    low, high, value, zero = (
        100 * (end - lowest) / width for end in (interval.low, interval.high, interval.value, 0.0)
    )
    return low, high - low, value, zero


def _shown(prompts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the prompts that can be browsed, in order: of each group the first ones."""
    by_group: dict[str, list[tuple[str, str]]] = {}
    for prompt in prompts:
        by_group.setdefault(prompt[1], []).append(prompt)
    turns = chain.from_iterable(zip_longest(*by_group.values()))
    chosen = set([one for one in turns if one][:_MOST_PROMPTS])
    return [prompt for prompt in prompts if prompt in chosen]


def _by_prompt(report: Report) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Return the rows of each prompt and group by protocol, of the largest k."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for protocol in report.protocols:
        for row in report.select(protocol):
            own = found.setdefault((row.prompt, row.group), {})
            own.setdefault(protocol, []).append(row)
    return found


def _prompt(
    report: Report, prompt: str, group: str, rows: Mapping[str, Sequence[Row]], chosen: _Chosen
) -> dict[str, Any]:
    return {
        "name": prompt,
        "group": group,
        "text": report.prompt_texts.get(prompt, ""),
        "leak": report.leaks.get(prompt, ""),
        "protocols": [
            _outcome(protocol, own) | {"lists": chosen.add(own)} for protocol, own in rows.items()
        ],
    }


def _outcome(protocol: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what each method came to on one prompt."""
    base = next((row.bits for row in rows if row.method == BASE and not row.failure), math.nan)
    return {
        "name": protocol,
        "rows": rows,
        "metrics": list(dict.fromkeys(name for row in rows for name in row.scores)),
        "bits": any(math.isfinite(row.bits) for row in rows),
        "sigma": any(math.isfinite(row.posterior_std) for row in rows),
        "answers": any(row.answer is not None for row in rows),
        "percent": {row.method: 100 * row.bits / base if base > 0 else math.nan for row in rows},
    }


class _Chosen:
    """What was chosen for the prompts, as the page's script reads it: each text once."""

    def __init__(self, report: Report) -> None:
        self._texts = report.texts
        self._documents: dict[str, int] = {}
        self._methods: dict[str, int] = {}
        self._lists: list[list[dict[str, Any]]] = []
        self._shingles: dict[str, frozenset[tuple[str, ...]]] = {}

    def add(self, rows: Iterable[Row]) -> int | None:
        """Add what was chosen for a prompt under a protocol, and return its number."""
        alike: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        for row in rows:
            if row.chosen:
                ids = tuple(document.id for document in row.chosen)
                alike.setdefault((row.method.partition(":")[2], ids), []).append(row)
        if not alike:
            return None
        self._lists.append([self._list(own) for own in _in_order(list(alike.values()))])
        return len(self._lists) - 1

    def json(self) -> str:
        """Return all of it as JSON that can stand in a page: there is no `<` in it."""
        longest = min(_LONGEST_TEXT, _MOST_TEXT // max(1, len(self._documents)))
        found = {
            "methods": [[m, _color(m), _swatch(m)] for m in self._methods],
            "documents": [
                [key, _cut(self._texts.get(key, ""), longest)] for key in self._documents
            ],
            "lists": self._lists,
        }
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")

    def _list(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the documents that all of the rows chose, and which rows had no use for them."""
        chosen, prior = rows[0].chosen, rows[0].prior_variance
        marks = self._marks([document.id for document in chosen])
        done = [row for row in rows if row.failure is None]
        return {
            "methods": [self._method(row.method) for row in rows],
            "prior": _short(prior),
            "steps": [
                [
                    self._documents.setdefault(document.id, len(self._documents)),
                    _short(document.gain),
                    _short(document.posterior_variance),
                    document.copies,
                    *mark,
                    *_unused([self._method(r.method) for r in done if n not in r.used_places]),
                ]
                for n, (document, mark) in enumerate(zip(chosen, marks, strict=True))
            ],
        }

    def _method(self, method: str) -> int:
        return self._methods.setdefault(method, len(self._methods))

    def _marks(self, ids: Sequence[str]) -> list[tuple[str, int]]:
        """Return for each document what it repeats: how, and which step of the list."""
        first: dict[str, int] = {}
        holders: dict[tuple[str, ...], list[int]] = {}
        marks = []
        for step, key in enumerate(ids, start=1):
            if key in first:
                marks.append(("again", first[key]))
                continue
            marks.append(self._like(key, ids, holders))
            first[key] = step
            for shingle in self._of(key):
                holders.setdefault(shingle, []).append(step)
        return marks

    def _like(
        self, key: str, ids: Sequence[str], holders: Mapping[tuple[str, ...], Sequence[int]]
    ) -> tuple[str, int]:
        """Return which earlier document has most of this one's runs of five words."""
        own, common = self._of(key), dict[int, int]()
        for shingle in own:
            for step in holders.get(shingle, ()):
                common[step] = common.get(step, 0) + 1
        step = max(sorted(common), key=common.__getitem__, default=0)
        if not step or common[step] < _ALIKE * len(own):
            return "", 0
        same = _words(self._texts.get(key, "")) == _words(self._texts.get(ids[step - 1], ""))
        return ("copy" if same else "much alike"), step

    def _of(self, key: str) -> frozenset[tuple[str, ...]]:
        if key not in self._shingles:
            words = _words(self._texts.get(key, ""))
            length = min(_SHINGLE, len(words))
            starts = range(len(words) - length + 1) if length else ()
            self._shingles[key] = frozenset(tuple(words[at : at + length]) for at in starts)
        return self._shingles[key]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _unused(methods: list[int]) -> list[list[int]]:
    return [methods] if methods else []


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _in_order(lists: Sequence[list[Row]]) -> list[list[Row]]:
    """Return what nearest neighbors chose, what SIFT chose, and then the others.

    Where several are of the same selection, what a fine-tuned model learned from is taken.
    """
    first = []
    for selection in ("nearest", "sift"):
        names = {f"ttft:{selection}": 0, f"both:{selection}": 1, f"rag:{selection}": 2}
        ranks = [min(names.get(row.method, len(names)) for row in own) for own in lists]
        if min(ranks) < len(names):
            first.append(ranks.index(min(ranks)))
    return [lists[n] for n in dict.fromkeys((*first, *range(len(lists))))]
