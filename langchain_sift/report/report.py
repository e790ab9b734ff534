"""All that a comparison found: the report as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_sift.report.intervals import (
    Difference,
    Interval,
    correlation,
    judge,
    ratio_interval,
)
from langchain_sift.report.metrics import FROM_0_TO_1
from langchain_sift.report.rows import BASE, Row, plain
from langchain_sift.report.summaries import PERCENT_OF_BASE, MethodSummary, summarize


@dataclass(frozen=True, slots=True)
class Report:
    """All that a comparison found."""

    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it was run with."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """The beginning of each chosen document, by its id."""

    prompt_texts: Mapping[str, str] = field(default_factory=dict)
    """The beginning of each prompt, by its id."""

    leaks: Mapping[str, str] = field(default_factory=dict)
    """Of which prompts the store holds the scored text, and how: prompt's id to what was found."""

    path: Path | None = None
    """Of the page, once it is written."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that were run, in order."""
        return tuple(dict.fromkeys(row.protocol for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were compared, in order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def groups(self) -> tuple[str, ...]:
        """What the prompts were filed under, in order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of documents that were asked for, rising."""
        return tuple(sorted({row.k for row in self.rows if row.k}))

    @property
    def leaks_left_out(self) -> bool:
        """Whether the prompts of `leaks` were not measured."""
        return self.settings.get("leaks") == "exclude"

    def select(self, protocol: str, *, group: str | None = None, k: int | None = None) -> list[Row]:
        """Return the rows of a protocol.

        Args:
            protocol: One of `protocols`.
            group: One of `groups`, or None for all.
            k: How many documents; None for the most. Methods without documents always count.
        """
        most = max(self.ks, default=0) if k is None else k
        return [
            row
            for row in self.rows
            if row.protocol == protocol and group in {None, row.group} and row.k in {0, most}
        ]

    def summary(
        self, protocol: str, group: str | None = None, k: int | None = None
    ) -> dict[str, MethodSummary]:
        """Return the summary of each method; arguments as in `select`."""
        return summarize(self.select(protocol, group=group, k=k))

    def summaries_by_group(self, protocol: str) -> dict[str, Mapping[str, MethodSummary]]:
        """Return the summaries of each group, where there are several."""
        groups = [group for group in self.groups if self.prompts(protocol, group)]
        if len(groups) < 2:
            return {}
        return {group: self.summary(protocol, group) for group in groups}

    def prompts(self, protocol: str, group: str | None = None) -> int:
        """Return how many prompts a protocol was run on."""
        return len({row.prompt for row in self.select(protocol, group=group)})

    def metrics(self, protocol: str) -> tuple[str, ...]:
        """Return by what the methods can be compared; what is the same in all rows comes last."""
        rows = self.select(protocol)
        values: dict[str, set[float]] = {}
        for row in rows:
            for name, value in row.scores.items():
                values.setdefault(name, set()).add(value)
        if any(math.isfinite(row.bits) for row in rows):
            values[PERCENT_OF_BASE] = {row.bits for row in rows}
        return tuple(sorted(values, key=lambda name: len(values[name]) == 1))

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
            second: Another.
            metric: One of `metrics`.
            group: As in `select`.
            k: As in `select`.

        Returns:
            The first less the second; None where no prompt was measured with both.
        """
        rows = self.select(protocol, group=group, k=k)
        measured = {
            method: {row.prompt: row for row in rows if row.method == method and not row.failure}
            for method in (first, second, BASE)
        }
        common = [
            prompt
            for prompt, row in measured[first].items()
            if prompt in measured[second] and _has(row, measured[second][prompt], metric)
        ]
        if metric == PERCENT_OF_BASE:
            common = [prompt for prompt in common if prompt in measured[BASE]]
            weights = [measured[BASE][prompt].bits / 100 for prompt in common]
        else:
            weights = [1.0] * len(common)
        if not common or not sum(weights) > 0:
            return None
        interval = ratio_interval(
            [
                _value(measured[first][prompt], metric) - _value(measured[second][prompt], metric)
                for prompt in common
            ],
            weights,
            [measured[first][prompt].cluster for prompt in common],
        )
        return judge(
            first,
            second,
            metric,
            interval,
            prompts=len(common),
            lower_is_better=metric == PERCENT_OF_BASE,
            limit=self._limit(metric),
        )

    def _limit(self, metric: str) -> float:
        """Return what no difference in a metric exceeds; a scorer may have any name and range."""
        own = self.settings.get("scorers") or ()
        return 1.0 if metric in FROM_0_TO_1 and metric not in own else math.inf

    def uncertainty_and_gain(self, protocol: str, method: str) -> list[tuple[float, float, str]]:
        """Return for each prompt σ after the last choice, percent of base, and its cluster."""
        rows = self.select(protocol)
        base = {row.prompt: row.bits for row in rows if row.method == BASE and not row.failure}
        return [
            (row.posterior_std, 100 * row.bits / base[row.prompt], row.cluster)
            for row in rows
            if row.method == method
            and not row.failure
            and base.get(row.prompt, 0.0) > 0
            and math.isfinite(row.posterior_std)
            and math.isfinite(row.bits)
        ]

    def uncertainty_correlation(self, protocol: str, method: str) -> Interval | None:
        """Return how σ goes with the percentage of base that is left: ranks, with interval.

        Positive: where little is uncertain after the choice, much is gained, as arXiv
        2410.08020 finds (section 5).
        """
        found = self.uncertainty_and_gain(protocol, method)
        if len(found) < 3:
            return None
        return correlation(*zip(*found, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain values, NaN as None.

        One object for one protocol; for several, such an object for each under "protocols".
        """
        objects = {protocol: self._protocol_json(protocol) for protocol in self.protocols}
        if len(objects) == 1:
            return next(iter(objects.values()))
        report = None if self.path is None else str(self.path)
        return {"report": report, "protocols": objects}

    def _protocol_json(self, protocol: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "protocol": protocol,
            "prompts": self.prompts(protocol),
            "report": None if self.path is None else str(self.path),
            "methods": plain(self.summary(protocol)),
        }
        if len(self.ks) > 1:
            found["by_k"] = {str(k): plain(self.summary(protocol, k=k)) for k in self.ks}
        if len(self.groups) > 1:
            found["groups"] = {
                group: {
                    "prompts": self.prompts(protocol, group),
                    "methods": plain(self.summary(protocol, group)),
                }
                for group in self.groups
            }
        return found


def _has(first: Row, second: Row, metric: str) -> bool:
    if metric == PERCENT_OF_BASE:
        return math.isfinite(first.bits) and math.isfinite(second.bits)
    return metric in first.scores and metric in second.scores


def _value(row: Row, metric: str) -> float:
    return row.bits if metric == PERCENT_OF_BASE else row.scores[metric]
