"""What each protocol of a report found: the verdict, differences, correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from langchain_sift.report.intervals import Difference, Interval
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, MODES
from langchain_sift.report.verdicts import ranked_methods, verdict

_MAIN = 6  # methods that are compared each with each


@dataclass(frozen=True, slots=True)
class Finding:
    """What one protocol found."""

    protocol: str
    verdict: str
    best: str | None
    differences: Mapping[str, tuple[Difference, ...]]
    """By metric, the most telling first."""

    correlations: Mapping[str, Interval]
    """Of σ and the percentage of base that is left, by method."""


def find(report: Report) -> list[Finding]:
    """Return what each protocol found: this takes the most time of all that a report needs."""
    return [_find(report, protocol) for protocol in report.protocols]


def _find(report: Report, protocol: str) -> Finding:
    # All that follows is about the largest k; fewer rows are looked through sooner.
    narrow = replace(report, rows=tuple(report.select(protocol)))
    metrics = narrow.metrics(protocol)
    ranked = ranked_methods(narrow, protocol, metrics[0]) if metrics else []
    correlations = {
        method: interval
        for method in narrow.methods
        if (interval := narrow.uncertainty_correlation(protocol, method)) is not None
        and math.isfinite(interval.value)
    }
    return Finding(
        protocol,
        verdict(narrow, protocol),
        ranked[0] if ranked else None,
        {
            metric: _differences(narrow, protocol, metric, pairs=metric == metrics[0])
            for metric in metrics
        },
        correlations,
    )


def _differences(
    report: Report, protocol: str, metric: str, *, pairs: bool
) -> tuple[Difference, ...]:
    """Return each method against base, and, where wanted, the main methods each with each.

    Main are the best of those without options, and the best of all. SIFT is compared with nearest
    neighbors in any case.
    """
    ranked = ranked_methods(report, protocol, metric)
    asked = [(method, BASE) for method in ranked if method != BASE]
    if pairs:
        others = [method for method in ranked if method != BASE]
        plain = [method for method in others if method.count(":") < 2]
        main = list(dict.fromkeys((*others[:1], *plain)))[:_MAIN]
        asked += combinations(main, 2)
        rivals = [(f"{mode}:sift", f"{mode}:nearest") for mode in MODES]
        asked += [
            pair for pair in rivals if {*pair} <= {*others} and not {pair, pair[::-1]} & {*asked}
        ]
    found = (report.difference(protocol, *pair, metric=metric) for pair in asked)
    return tuple(one for one in found if one is not None)
