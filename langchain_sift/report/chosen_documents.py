"""What was chosen for the prompts, as the page's script reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_sift.report.plots.svg import color_of, swatch_of
from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row

_LONGEST_TEXT = 1_000  # characters of a document
_MOST_TEXT = 6_000_000  # characters of all documents
_SHINGLE = 5  # words in a row
_ALIKE = 0.5  # share of a text's shingles from which on it says again what another has said
_WORD = re.compile(r"\w+")


class ChosenDocuments:
    """What was chosen for the prompts, as the page's script reads it: each text once."""

    def __init__(self, report: Report) -> None:
        """Take the texts of a report."""
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
            "methods": [[m, color_of(m), swatch_of(m)] for m in self._methods],
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
