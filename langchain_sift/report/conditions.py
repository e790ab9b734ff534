"""Check the results of a comparison against conditions, such as "ndcg@10<0.40", for CI."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from operator import ge, gt, le, lt
from types import MappingProxyType

from langchain_sift.checks import number_or_nan
from langchain_sift.errors import ArgumentError
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE
from langchain_sift.report.summaries import MethodSummary
from langchain_sift.report.tables import metric_name

_PATTERN = re.compile(
    r"(?:(?P<method>.+):)?(?P<metric>[^:@<>=]+?)(?:@(?P<k>\d+))?\s*"
    r"(?P<sign><=|>=|<|>)\s*(?P<value>[^<>=]+)"
)
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": lt, "<=": le, ">": gt, ">=": ge}
)
_COSTS = frozenset(field.name for field in fields(MethodSummary)) - {"scores", "score_errors"}
"""The numbers of a summary that every protocol has, such as `seconds`."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition under which a comparison fails."""

    text: str
    """The condition as it was written."""

    method: str | None
    """The method that it concerns. None means every method but the base model."""

    metric: str
    """A metric, or a field of `MethodSummary`."""

    k: int | None
    """Number of documents. None means the largest of the comparison."""

    sign: str
    value: float

    def failures(self, report: Report) -> list[str]:
        """Return a sentence for each method for which the condition holds.

        A method without any result fails as well, and so does a metric that no method has: a
        check must not pass because nothing was measured.
        """
        values = dict(self._values(report))
        if not values:
            return [f"{self.text}: {self.metric} was not measured"]
        holds = _COMPARISONS[self.sign]
        return [
            f"{self.text}: {method} has "
            f"{'no result' if math.isnan(value) else f'{value:.4g}'} ({protocol})"
            for (protocol, method), value in values.items()
            if math.isnan(value) or holds(value, self.value)
        ]

    def _values(self, report: Report) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield the measured values by protocol and method; NaN for a method without a result."""
        for protocol in report.protocols:
            summaries = report.summary(protocol, k=self.k)
            known = {name: _value(summary, self.metric) for name, summary in summaries.items()}
            if not any(map(math.isfinite, known.values())):
                continue
            for method, value in known.items():
                wanted = method == self.method or (self.method is None and method != BASE)
                if wanted and (math.isfinite(value) or not summaries[method].prompts):
                    yield (protocol, method), value


def _value(summary: MethodSummary, metric: str) -> float:
    value = summary.scores.get(metric, math.nan)
    if metric in _COSTS:
        value = getattr(summary, metric)
    return math.nan if value is None else float(value)


def parse_condition(
    text: str, *, metrics: Collection[str], methods: Collection[str], ks: Collection[int]
) -> Condition:
    """Read a condition: a metric, "<", "<=", ">" or ">=", and a number.

    Args:
        text: Such as "ndcg@10<0.40", or "sift:recall<0.6" for one method. The number of documents
            follows an "@"; without it, the largest counts.
        metrics: Names of the metrics that the protocols have. The fields of `MethodSummary`, such
            as `percent_of_base` and `seconds`, are known as well.
        methods: Names of the methods.
        ks: The numbers of documents.

    Raises:
        ArgumentError: If it cannot be read, or names an unknown metric or method (the nearest is
            suggested), or a number of documents that is not measured.
    """
    match = _PATTERN.fullmatch(text.strip())
    value = number_or_nan(match["value"]) if match else math.nan
    if match is None or not math.isfinite(value):
        raise ArgumentError(f"{text!r} is no condition: write it as 'ndcg@10<0.40'")
    metric = _known("metric", text, match["metric"].strip(), {*metrics, *_COSTS})
    method = match["method"] and _known("method", text, match["method"].strip(), methods)
    k = int(match["k"]) if match["k"] else None
    if k is not None and k not in ks:
        measured = ",".join(map(str, sorted(ks)))
        raise ArgumentError(
            f"{text!r}: {k} documents are not measured, but {measured}: add {k} to --k"
        )
    return Condition(text, method, metric, k, match["sign"], value)


def _known(kind: str, text: str, name: str, known: Collection[str]) -> str:
    """Return the known name that is meant: itself, or its form in tables, in any case."""
    if name in known:
        return name
    simple = {_simplified(metric_name(candidate)): candidate for candidate in known}
    simple |= {_simplified(candidate): candidate for candidate in known}
    if _simplified(name) in simple:
        return simple[_simplified(name)]
    alike = get_close_matches(_simplified(name), simple, n=1)
    hint = (
        f"did you mean {simple[alike[0]]!r}?" if alike else f"use one of {', '.join(sorted(known))}"
    )
    raise ArgumentError(f"{text!r}: there is no {kind} {name!r}: {hint}")


def _simplified(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_").replace("α", "alpha")
