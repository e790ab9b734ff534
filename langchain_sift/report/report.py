"""Hold all rows of a comparison, with summaries and findings that are computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from langchain_sift.report.answer_notes import empty_answer_notes
from langchain_sift.report.findings import (
    TOO_FEW_METHODS,
    UNSCORED_ANSWERS,
    Finding,
    compared_pairs,
    describe_failures,
    difference_of,
    uncertainty_and_gain,
    verdict,
    verdict_without_difference,
)
from langchain_sift.report.intervals import Difference, Interval, correlation
from langchain_sift.report.judge_scores import judge_notes, without_ungraded
from langchain_sift.report.leak_notices import leak_notice
from langchain_sift.report.metrics import FROM_0_TO_1
from langchain_sift.report.results import report_json
from langchain_sift.report.rows import Row
from langchain_sift.report.summaries import (
    PERCENT_OF_BASE,
    MethodSummary,
    rank_methods,
    summarize,
)

_Part = tuple[str, str | None, int]  # protocol, group (None for all), k


@dataclass(frozen=True)
class Report:
    """All rows of a comparison, and the statistics over them."""

    rows: tuple[Row, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings of the comparison."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Start of each chosen document by its id."""

    prompt_texts: Mapping[str, str] = field(default_factory=dict)
    """Start of each prompt by its id."""

    leaks: Mapping[str, str] = field(default_factory=dict)
    """Prompts whose scored text is in the store, or whose question the model has learned: prompt's
    id to a description of the leak."""

    relevant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of the relevant documents by the prompt's id, where they are known."""

    path: Path | None = None
    """Path of the page, once it is written."""

    references: Mapping[str, str] = field(default_factory=dict)
    """A correct answer to each prompt by its id, where one is known."""

    memory: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Bytes in use at the peak, "estimated" and "measured". Empty if this process computed no row.
    Not written: another run has other figures."""

    _rows: dict[_Part, tuple[Row, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _summaries: dict[_Part, Mapping[str, MethodSummary]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def protocols(self) -> tuple[str, ...]:
        """The protocols in order."""
        return tuple(dict.fromkeys(row.protocol for row in self.rows))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods in order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups of prompts in order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    @cached_property
    def ks(self) -> tuple[int, ...]:
        """The numbers of documents per prompt, ascending; methods without documents have none."""
        return tuple(sorted({row.k for row in self.rows if row.k}))

    @cached_property
    def findings(self) -> Mapping[str, Finding]:
        """The findings of each protocol; the most expensive part of a report."""
        return {name: self._finding(name) for name in self.protocols}

    @property
    def leaks_excluded(self) -> bool:
        """True if the prompts of `leaks` were not measured."""
        return self.settings.get("leaks") == "exclude"

    @property
    def leak_notice(self) -> str:
        """The number of prompts that leak, and their treatment, in words."""
        prompts = len(self.leaks.keys() | {row.prompt for row in self.rows})
        return leak_notice(self.leaks, prompts, excluded=self.leaks_excluded)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader, such as the number of labels that the store lacks."""
        notes = self.settings.get("notes", ())
        written = tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()
        judge, most = self.settings.get("judge"), self.settings.get("max_tokens")
        return (
            *written,
            *(empty_answer_notes(self.rows, most) if isinstance(most, int) else ()),
            *(judge_notes(self.rows, str(judge)) if judge else ()),
        )

    def with_path(self, path: Path) -> Report:
        """Return a copy with the path of its page; it shares the summaries and findings."""
        report = copy(self)
        object.__setattr__(report, "path", path)
        return report

    def select(
        self, protocol: str, *, group: str | None = None, k: int | None = None
    ) -> tuple[Row, ...]:
        """Return the rows of a protocol.

        Args:
            protocol: One of `protocols`.
            group: One of `groups`; None means all groups.
            k: Number of documents per prompt; None means the largest. Methods without documents
                are always included.
        """
        k = max(self.ks, default=0) if k is None else k
        part = (protocol, group, k)
        if part not in self._rows:
            self._rows[part] = without_ungraded(
                row
                for row in self.rows
                if row.protocol == protocol and group in {None, row.group} and row.k in {0, k}
            )
        return self._rows[part]

    def summary(
        self, protocol: str, group: str | None = None, k: int | None = None
    ) -> Mapping[str, MethodSummary]:
        """Return the summary of each method; arguments as in `select`."""
        part = (protocol, group, max(self.ks, default=0) if k is None else k)
        if part not in self._summaries:
            rows = self.select(protocol, group=group, k=k)
            self._summaries[part] = summarize(rows)
        return self._summaries[part]

    def summaries_by_group(self, protocol: str) -> dict[str, Mapping[str, MethodSummary]]:
        """Return the summaries of each group; empty if there are fewer than two groups."""
        groups = [group for group in self.groups if self.prompts(protocol, group)]
        if len(groups) < 2:
            return {}
        return {group: self.summary(protocol, group) for group in groups}

    def prompts(self, protocol: str, group: str | None = None) -> int:
        """Return the number of prompts of a protocol; arguments as in `select`."""
        return len({row.prompt for row in self.select(protocol, group=group)})

    def metrics(self, protocol: str) -> tuple[str, ...]:
        """Return the metrics of a protocol, those that most rows have first.

        A metric with the same value in all rows comes last, and after it one that fewer than two
        methods have.
        """
        values = self._values(protocol)

        def place(name: str) -> tuple[bool, bool]:
            is_alone = len(self.ranked_methods(protocol, name)) < 2
            return is_alone, _is_constant(values[name])

        return tuple(sorted(values, key=place))

    def _values(self, protocol: str) -> dict[str, list[float]]:
        """Return the values of each metric in all rows, those that most rows have first."""
        rows = self.select(protocol)
        values: dict[str, list[float]] = {}
        for row in rows:
            for name, value in row.scores.items():
                values.setdefault(name, []).append(value)
        ordered = dict(sorted(values.items(), key=lambda item: -len(item[1])))
        if any(math.isfinite(row.bits) for row in rows):
            ordered[PERCENT_OF_BASE] = [row.bits for row in rows]
        return ordered

    def ranked_methods(self, protocol: str, metric: str) -> list[str]:
        """Return the methods that have a metric, the best first."""
        return rank_methods(self.summary(protocol), metric)

    def difference(
        self,
        protocol: str,
        first: str,
        second: str,
        *,
        metric: str = PERCENT_OF_BASE,
        group: str | None = None,
        k: int | None = None,
    ) -> Difference | None:
        """Compare two methods on the prompts that both were measured on.

        Args:
            protocol: One of `protocols`.
            first: A method.
            second: Another method.
            metric: One of `metrics`.
            group: As in `select`.
            k: As in `select`.

        Returns:
            First minus second; None if no prompt was measured with both.
        """
        # A user's scorer may have any name and any range.
        scorers = self.settings.get("scorers")
        is_custom = isinstance(scorers, list | tuple) and metric in scorers
        limit = 1.0 if metric in FROM_0_TO_1 and not is_custom else math.inf
        rows = self.select(protocol, group=group, k=k)
        return difference_of(rows, first, second, metric=metric, limit=limit)

    def uncertainty_and_gain(self, protocol: str, method: str) -> list[tuple[float, float, str]]:
        """Return σ after the last choice, percent of base, and the cluster of each prompt."""
        return uncertainty_and_gain(self.select(protocol), method)

    def uncertainty_correlation(self, protocol: str, method: str) -> Interval | None:
        """Return the rank correlation of σ with percent of base; None below three prompts.

        Positive if a low σ after the choice goes with a large improvement, as arXiv 2410.08020
        reports (section 5).
        """
        points = self.uncertainty_and_gain(protocol, method)
        if len(points) < 3:
            return None
        return correlation(*zip(*points, strict=True))

    def verdict(self, protocol: str) -> str:
        """Name the best method of a protocol, and state how certain that is."""
        metric = next(iter(self.metrics(protocol)), None)
        if metric is None:
            answered = any(row.answer is not None for row in self.select(protocol))
            return UNSCORED_ANSWERS if answered else TOO_FEW_METHODS
        if _is_constant(self._values(protocol)[metric]):
            return verdict_without_difference(self.summary(protocol), metric)
        difference = partial(self.difference, protocol, metric=metric)
        return verdict(self.summary(protocol), metric, difference, k=max(self.ks, default=0))

    def to_json(self) -> dict[str, object]:
        """Return settings, summaries and findings as JSON values, NaN as None.

        The object of the protocol if there is only one; otherwise the object of each protocol
        under "protocols".
        """
        return report_json(self)

    def _finding(self, protocol: str) -> Finding:
        summaries, metrics = self.summary(protocol), self.metrics(protocol)
        ranked = {metric: rank_methods(summaries, metric) for metric in metrics}
        kept = tuple(row for row in self.select(protocol) if row.prompt not in self.leaks)
        show_leaks = self.leaks and not self.leaks_excluded
        return Finding(
            protocol=protocol,
            verdict=self.verdict(protocol),
            verdict_without_leaks=replace(self, rows=kept).verdict(protocol) if show_leaks else "",
            failures=describe_failures(summaries, self.prompts(protocol)),
            best=next(iter(ranked[metrics[0]]), None) if metrics else None,
            differences={
                metric: self._differences(protocol, metric, each_with_each=metric == metrics[0])
                for metric in metrics
            },
            correlations={
                method: interval
                for method in self.methods
                if (interval := self.uncertainty_correlation(protocol, method)) is not None
                and math.isfinite(interval.value)
            },
        )

    def _differences(
        self, protocol: str, metric: str, *, each_with_each: bool
    ) -> tuple[Difference, ...]:
        pairs = compared_pairs(self.ranked_methods(protocol, metric), each_with_each=each_with_each)
        differences = (self.difference(protocol, *pair, metric=metric) for pair in pairs)
        return tuple(difference for difference in differences if difference is not None)


def _is_constant(values: Sequence[float]) -> bool:
    return len({*values}) == 1
