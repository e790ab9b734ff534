"""Collect the chosen documents of the prompts for the script of the page."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypedDict

from langchain_sift.report.plots.method_styles import color_of, swatch_of
from langchain_sift.report.rows import ChosenDocument, Row, selection_of
from langchain_sift.report.shingles import shingles_of
from langchain_sift.report.words import words_of

_MAX_TEXT = 1_000  # characters of a document
_MAX_TOTAL_TEXT = 6_000_000  # characters of all documents
_SHINGLE_LENGTH = 5
_NEAR_COPY = 0.5  # fraction of a text's shingles that occur in an earlier text


class DocumentList(TypedDict):
    """The documents that some methods chose for a prompt, as the script reads them."""

    methods: list[int]
    """Numbers of the methods."""

    prior: float | None
    """Prior variance at the prompt."""

    relevant: list[int] | None
    """Numbers of the steps with a relevant document, from 0. None if they are not known."""

    known: int
    """Number of relevant documents that are known."""

    steps: list[list[object]]
    """For each choice: the document's number, its gain, the variance that remains, its copies,
    its kind of repetition ("", "repeat", "copy" or "near copy"), the step that it repeats, and,
    if there are any, the numbers of the methods that did not use it."""


class DocumentLists:
    """The chosen documents of all prompts; methods and texts are stored once."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Start without documents.

        Args:
            texts: Start of each chosen document by its id.
        """
        self._texts = texts
        self._documents: dict[str, int] = {}
        self._methods: dict[str, int] = {}
        self._lists: list[list[DocumentList]] = []
        self._shingles: dict[str, frozenset[str]] = {}

    def add(self, rows: Iterable[Row], relevant: Collection[str] = ()) -> int | None:
        """Add the documents of a prompt under a protocol.

        Args:
            rows: The rows of the prompt.
            relevant: Ids of the documents that are known to be relevant; empty if none are known.

        Returns:
            The number of the entry; None if no method chose documents.
        """
        by_choice: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        for row in rows:
            if row.chosen:
                ids = tuple(document.id for document in row.chosen)
                by_choice.setdefault((selection_of(row.method), ids), []).append(row)
        if not by_choice:
            return None
        lists = [self._list(rows, relevant) for rows in _in_order(list(by_choice.values()))]
        self._lists.append(lists)
        return len(self._lists) - 1

    def json(self) -> str:
        """Return everything as JSON that can be embedded in a page: without any `<`."""
        longest = min(_MAX_TEXT, _MAX_TOTAL_TEXT // max(1, len(self._documents)))
        content = {
            "methods": [[name, color_of(name), swatch_of(name)] for name in self._methods],
            "documents": [
                [key, _truncated(self._texts.get(key, ""), longest)] for key in self._documents
            ],
            "lists": self._lists,
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")

    def _list(self, rows: Sequence[Row], relevant: Collection[str]) -> DocumentList:
        """Return the documents that all of the rows chose."""
        chosen = rows[0].chosen
        repetitions = self._repetitions([document.id for document in chosen])
        done = [row for row in rows if row.failure is None]
        steps = []
        for index, (document, repetition) in enumerate(zip(chosen, repetitions, strict=True)):
            number = self._documents.setdefault(document.id, len(self._documents))
            step: list[object] = [
                number,
                _rounded(document.gain),
                _rounded(document.posterior_variance),
                document.copies,
                *repetition,
            ]
            unused = [self._method(row.method) for row in done if index not in row.used_indices]
            if unused:
                step.append(unused)
            steps.append(step)
        return {
            "methods": [self._method(row.method) for row in rows],
            "prior": _rounded(rows[0].prior_variance),
            "relevant": _relevant_steps(chosen, relevant) if relevant else None,
            "known": len(relevant),
            "steps": steps,
        }

    def _method(self, method: str) -> int:
        return self._methods.setdefault(method, len(self._methods))

    def _repetitions(self, ids: Sequence[str]) -> list[tuple[str, int]]:
        """Return for each document its kind of repetition and the step that it repeats."""
        first: dict[str, int] = {}
        steps_of: dict[str, list[int]] = {}  # by shingle
        repetitions = []
        for step, key in enumerate(ids, start=1):
            if key in first:
                repetitions.append(("repeat", first[key]))
                continue
            repetitions.append(self._nearest_copy(key, ids, steps_of))
            first[key] = step
            for shingle in self._shingles_of(key):
                steps_of.setdefault(shingle, []).append(step)
        return repetitions

    def _nearest_copy(
        self, key: str, ids: Sequence[str], steps_of: Mapping[str, Sequence[int]]
    ) -> tuple[str, int]:
        """Return the earlier document that has most of this document's shingles."""
        shingles, common = self._shingles_of(key), dict[int, int]()
        for shingle in shingles:
            for step in steps_of.get(shingle, ()):
                common[step] = common.get(step, 0) + 1
        step = max(sorted(common), key=common.__getitem__, default=0)
        if not step or common[step] < _NEAR_COPY * len(shingles):
            return "", 0
        words, earlier = (words_of(self._texts.get(name, "")) for name in (key, ids[step - 1]))
        return ("copy" if words == earlier else "near copy"), step

    def _shingles_of(self, key: str) -> frozenset[str]:
        if key not in self._shingles:
            self._shingles[key] = shingles_of(self._texts.get(key, ""), _SHINGLE_LENGTH)
        return self._shingles[key]


def _relevant_steps(chosen: Iterable[ChosenDocument], relevant: Collection[str]) -> list[int]:
    return [step for step, document in enumerate(chosen) if document.id in relevant]


def _truncated(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _in_order(choices: Sequence[list[Row]]) -> list[list[Row]]:
    """Sort the choices of a prompt: nearest neighbors, SIFT, and then the others.

    Of several choices with the same selection, the one that fine-tuning used comes first.
    """
    first = []
    for selection in ("nearest", "sift"):
        modes = ("ttft:", "both:", "rag:", "")
        order = {f"{mode}{selection}": place for place, mode in enumerate(modes)}
        ranks = [min(order.get(row.method, len(order)) for row in rows) for rows in choices]
        if min(ranks) < len(order):
            first.append(ranks.index(min(ranks)))
    return [choices[index] for index in dict.fromkeys((*first, *range(len(choices))))]
