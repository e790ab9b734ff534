"""What a comparison found: rows, their summaries, and the report as a value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BASE = "base"


@dataclass(frozen=True, slots=True)
class ChosenDocument:
    """A document as a method chose it."""

    id: str
    text: str
    """Its beginning."""

    gain: float
    """By how much it lowered the posterior variance at the prompt."""

    posterior_variance: float
    """What remained after it."""

    copies: int
    """How many of the candidates had its text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one prompt under one protocol."""

    protocol: str
    prompt: str
    """The prompt's id."""

    group: str
    """What the prompt was filed under, such as its domain."""

    method: str
    bits: float = math.nan
    """Of the scored text, under the model: its negative log-likelihood in base 2."""

    bytes: int = 0
    """Of the scored text, in UTF-8."""

    seconds_retrieval: float = 0.0
    seconds_training: float = 0.0
    seconds_answering: float = 0.0
    chosen: tuple[ChosenDocument, ...] = ()
    """In the order of choice, repeats included."""

    used_places: tuple[int, ...] = ()
    """Which of them were learned from, or fitted into the context: places in `chosen`."""

    prior_variance: float = math.nan
    failure: str | None = None
    """Why there is no score, where there is none."""

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
    """Of `percent_of_base`, over prompts; 0 for the base model itself."""

    seconds: float
    """Mean over prompts; so are the next five."""

    seconds_retrieval: float
    seconds_training: float
    seconds_answering: float
    distinct_documents: float
    documents_used: float


def summarize(rows: Iterable[Row]) -> dict[str, MethodSummary]:
    """Return each method's summary over rows of one protocol, in the order of first occurrence."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    base = {row.prompt: row for row in by_method.get(BASE, []) if row.failure is None}
    return {method: _summary(own, base) for method, own in by_method.items()}


def _summary(rows: Sequence[Row], base: Mapping[str, Row]) -> MethodSummary:
    scored = [row for row in rows if row.failure is None]
    bits = np.array([row.bits for row in scored])
    percent, standard_error = _percent_of_base(scored, base)
    total_bytes = sum(row.bytes for row in scored)

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values))) if scored else math.nan

    return MethodSummary(
        prompts=len(scored),
        failures=len(rows) - len(scored),
        bits_per_byte=float(bits.sum() / total_bytes) if total_bytes else math.nan,
        percent_of_base=percent,
        standard_error=standard_error,
        seconds=mean(row.seconds for row in scored),
        seconds_retrieval=mean(row.seconds_retrieval for row in scored),
        seconds_training=mean(row.seconds_training for row in scored),
        seconds_answering=mean(row.seconds_answering for row in scored),
        distinct_documents=mean(row.distinct for row in scored),
        documents_used=mean(row.used for row in scored),
    )


def _percent_of_base(scored: Sequence[Row], base: Mapping[str, Row]) -> tuple[float, float]:
    """Return the ratio of all bits to the base model's, in percent, and its standard error.

    The scored bytes are the same, so this is also the ratio of bits per byte. Standard error
    of a ratio estimator over prompts: Cochran (1977), Sampling Techniques, eq. 6.9.
    """
    paired = [(row.bits, base[row.prompt].bits) for row in scored if row.prompt in base]
    if not paired:
        return math.nan, math.nan
    bits, base_bits = np.array(paired).T
    ratio = bits.sum() / base_bits.sum()
    if len(paired) == 1:
        return float(100 * ratio), math.nan
    residuals = bits - ratio * base_bits
    variance = np.sum(residuals**2) / (len(paired) - 1) / len(paired)
    return float(100 * ratio), float(100 * math.sqrt(variance) / base_bits.mean())


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a comparison, and what it was of."""

    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    """Everything that was set, by name."""

    path: Path | None = field(default=None)
    """The HTML page, once it is written."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that ran, in order."""
        return tuple(dict.fromkeys(row.protocol for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were compared, in order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def groups(self) -> tuple[str, ...]:
        """What the prompts were filed under, in order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def summary(self, protocol: str, group: str | None = None) -> dict[str, MethodSummary]:
        """Return the summary of each method under a protocol, of one group or of all prompts."""
        return summarize(
            row for row in self.rows if row.protocol == protocol and group in {None, row.group}
        )

    def prompts(self, protocol: str, group: str | None = None) -> int:
        """Return how many prompts a protocol was run on."""
        return len(
            {
                row.prompt
                for row in self.rows
                if row.protocol == protocol and group in {None, row.group}
            }
        )

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
            "methods": _plain(self.summary(protocol)),
        }
        if len(self.groups) > 1:
            found["groups"] = {
                group: {
                    "prompts": self.prompts(protocol, group),
                    "methods": _plain(self.summary(protocol, group)),
                }
                for group in self.groups
            }
        return found


def _plain(summaries: Mapping[str, MethodSummary]) -> dict[str, dict[str, Any]]:
    return {
        method: {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(summary).items()
        }
        for method, summary in summaries.items()
    }


def write_row(path: Path, row: Row) -> None:
    """Append a row to a JSONL file, so that a comparison that fails keeps the rows it has."""
    plain = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(row).items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, ensure_ascii=False) + "\n")
