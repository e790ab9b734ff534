"""What a comparison found: rows, their summaries, and the report as a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from langchain_sift.comparison.methods import BASE
from langchain_sift.comparison.statistics import (
    Difference,
    Interval,
    correlation,
    judge,
    ratio_interval,
    ratio_standard_error,
)

PERCENT_OF_BASE = "percent_of_base"


@dataclass(frozen=True, slots=True)
class ChosenDocument:
    """A document as a method chose it; its text is in `Report.texts`."""

    id: str
    gain: float
    """By how much it lowered the posterior variance at the prompt; NaN where nobody knows."""

    posterior_variance: float
    """What remained after it."""

    copies: int
    """How many of the candidates had its text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method with one k on one prompt under one protocol."""

    protocol: str
    prompt: str
    """The prompt's id."""

    group: str
    """What the prompt was filed under, such as its domain."""

    method: str
    k: int = 0
    """Documents that it was to choose; 0 where it chooses none."""

    source: str = ""
    """What the prompt was cut from; its own id where that is not known."""

    bits: float = math.nan
    """Of the scored text, under the model: its negative log-likelihood in base 2."""

    bytes: int = 0
    """Of the scored text, in UTF-8."""

    tokens: int = 0
    """Of the scored text."""

    answer: str | None = None
    """What was generated, where something was."""

    scores: Mapping[str, float] = field(default_factory=dict)
    """Of the answer, by metric; more is better."""

    seconds_retrieval: float = 0.0
    seconds_training: float = 0.0
    seconds_answering: float = 0.0
    """Of what was done for several prompts together, its equal share; so is training."""

    tokens_training: int = 0
    tokens_context: int = 0
    """Before the scored text or the answer."""

    tokens_answer: int = 0
    peak_memory: int = 0
    """Bytes that the process, or on a GPU the model, held at most while it was done."""

    redundancy: float = math.nan
    """Mean over the choices after the first of the highest cosine with one before; 1: copies."""

    chosen: tuple[ChosenDocument, ...] = ()
    """In the order of choice, repeats included."""

    used_places: tuple[int, ...] = ()
    """Which of them were learned from, or fitted into the context: places in `chosen`."""

    prior_variance: float = math.nan
    failure: str | None = None
    """Why there is no score, where there is none."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What distinguishes it from all other rows of a comparison."""
        return self.protocol, self.prompt, self.method, self.k

    @property
    def cluster(self) -> str:
        """The observation that it is part of."""
        return self.source or self.prompt

    @property
    def seconds(self) -> float:
        """Retrieval, training and answering together."""
        return self.seconds_retrieval + self.seconds_training + self.seconds_answering

    @property
    def used(self) -> int:
        """How many documents were used, repeats counted."""
        return len(self.used_places)

    @property
    def distinct(self) -> int:
        """How many different documents were used."""
        return len({self.chosen[place].id for place in self.used_places})

    @property
    def posterior_std(self) -> float:
        """What remained uncertain about the prompt: σ after the last choice."""
        if not self.chosen:
            return math.nan
        return math.sqrt(max(0.0, self.chosen[-1].posterior_variance))


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """One method over many prompts."""

    prompts: int
    """How many were scored."""

    failures: int
    bits_per_byte: float
    """All bits over all bytes."""

    percent_of_base: float
    """100 x bits per byte over the base model's on the same prompts; lower is better."""

    standard_error: float
    """Of `percent_of_base`, over sources of prompts; 0 for the base model itself."""

    perplexity: float
    """2 to the mean bits per token of the scored text."""

    scores: Mapping[str, float]
    """Mean of each metric of the answers."""

    score_errors: Mapping[str, float]
    """Their standard errors."""

    seconds: float
    """Mean over prompts; so are the next ones, but for `peak_memory`."""

    seconds_retrieval: float
    seconds_training: float
    seconds_answering: float
    tokens_training: float
    tokens_context: float
    documents_used: float
    distinct_documents: float
    redundancy: float
    peak_memory: int
    """Highest of all prompts."""


def summarize(rows: Iterable[Row]) -> dict[str, MethodSummary]:
    """Return each method's summary over rows of one protocol, in the order of first occurrence."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    base = {row.prompt: row for row in by_method.get(BASE, []) if row.failure is None}
    return {method: _summary(own, base) for method, own in by_method.items()}


def _summary(rows: Sequence[Row], base: Mapping[str, Row]) -> MethodSummary:
    done = [row for row in rows if row.failure is None]
    scored = [row for row in done if math.isfinite(row.bits)]
    percent, standard_error = _percent_of_base(scored, base)
    bits = sum(row.bits for row in scored)
    total_bytes = sum(row.bytes for row in scored)
    total_tokens = sum(row.tokens for row in scored)
    names = list(dict.fromkeys(name for row in done for name in row.scores))
    marked = {name: [row for row in done if name in row.scores] for name in names}

    def mean(value: Callable[[Row], float]) -> float:
        values = [value(row) for row in done]
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan

    return MethodSummary(
        prompts=len(done),
        failures=len(rows) - len(done),
        bits_per_byte=bits / total_bytes if total_bytes else math.nan,
        percent_of_base=percent,
        standard_error=standard_error,
        perplexity=_perplexity(bits, total_tokens),
        scores={name: _mean_score(name, own) for name, own in marked.items()},
        score_errors={name: _score_error(name, own) for name, own in marked.items()},
        seconds=mean(lambda row: row.seconds),
        seconds_retrieval=mean(lambda row: row.seconds_retrieval),
        seconds_training=mean(lambda row: row.seconds_training),
        seconds_answering=mean(lambda row: row.seconds_answering),
        tokens_training=mean(lambda row: row.tokens_training),
        tokens_context=mean(lambda row: row.tokens_context),
        documents_used=mean(lambda row: row.used),
        distinct_documents=mean(lambda row: row.distinct),
        redundancy=mean(lambda row: row.redundancy),
        peak_memory=max((row.peak_memory for row in done), default=0),
    )


def _perplexity(bits: float, tokens: int) -> float:
    try:
        return 2.0 ** (bits / tokens) if tokens else math.nan
    except OverflowError:
        return math.inf


def _mean_score(name: str, rows: Sequence[Row]) -> float:
    return float(np.mean([row.scores[name] for row in rows]))


def _score_error(name: str, rows: Sequence[Row]) -> float:
    scores = [row.scores[name] for row in rows]
    return ratio_standard_error(scores, [1.0] * len(rows), [row.cluster for row in rows])


def _percent_of_base(scored: Sequence[Row], base: Mapping[str, Row]) -> tuple[float, float]:
    """Return the ratio of all bits to the base model's, in percent, and its standard error.

    The scored bytes are the same, so this is also the ratio of bits per byte.
    """
    paired = [row for row in scored if row.prompt in base]
    if not paired:
        return math.nan, math.nan
    own = [row.bits for row in paired]
    bases = [base[row.prompt].bits for row in paired]
    if sum(bases) <= 0:
        return math.nan, math.nan
    error = ratio_standard_error(own, bases, [row.cluster for row in paired])
    return 100 * sum(own) / sum(bases), 100 * error


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
        lower = metric == PERCENT_OF_BASE
        return judge(first, second, metric, interval, prompts=len(common), lower_is_better=lower)

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
        if len(found) < 3:  # noqa: PLR2004
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


def in_order(
    rows: Iterable[Row],
    protocols: Sequence[str],
    prompts: Mapping[str, int],
    methods: Sequence[str],
) -> list[Row]:
    """Return rows by protocol, prompt, method and k, whatever order they came in."""
    method_places = {name: place for place, name in enumerate(methods)}
    protocol_places = {name: place for place, name in enumerate(protocols)}
    return sorted(
        rows,
        key=lambda row: (
            protocol_places[row.protocol],
            prompts.get(row.prompt, len(prompts)),
            method_places[row.method],
            row.k,
        ),
    )


def _has(first: Row, second: Row, metric: str) -> bool:
    if metric == PERCENT_OF_BASE:
        return math.isfinite(first.bits) and math.isfinite(second.bits)
    return metric in first.scores and metric in second.scores


def _value(row: Row, metric: str) -> float:
    return row.bits if metric == PERCENT_OF_BASE else row.scores[metric]


def plain(value: Any) -> Any:
    """Return a value of dataclasses, mappings and numbers as JSON has them, NaN as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    return value if isinstance(value, str | int | bool | None) else str(value)
