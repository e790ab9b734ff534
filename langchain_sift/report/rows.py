"""One method on one prompt, as a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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


BASE = "base"


CHAIN = "chain"


MODES = ("rag", "ttft", "both")
