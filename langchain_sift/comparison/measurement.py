"""Describe the measurement of a prompt under a method, and the settings of all measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_sift.auto_mode import ModeTable
from langchain_sift.comparison.choice import MethodChoice
from langchain_sift.comparison.judging import Judge
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.settings import Scorer
from langchain_sift.comparison.tasks import Task
from langchain_sift.config import FineTuneConfig
from langchain_sift.report.metrics import ANSWER_METRICS
from langchain_sift.report.rows import Row, reason_of

# HullFT computes the gradient of a repeat anew every second step (arXiv 2605.30337, section 4).
_HULL_REUSE = 2


@dataclass(frozen=True, slots=True)
class WantedRow:
    """A row to fill."""

    row: Row
    """The row without results."""

    documents: int
    """Number of the chosen documents to use."""

    def with_choice(self, choice: MethodChoice | None, used_indices: Sequence[int]) -> Row:
        """Return the row with its documents, and without results.

        Args:
            choice: The documents that the method chose. None for the base model.
            used_indices: Indices of those that were used.
        """
        if choice is None:
            return self.row
        choice = choice.first(self.documents)
        return replace(
            self.row,
            chosen=choice.chosen,
            used_indices=tuple(used_indices),
            sources=choice.distinct_sources(used_indices),
            prior_variance=choice.prior_variance,
            redundancy=choice.redundancy,
            seconds_retrieval=choice.seconds,
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """A prompt to measure with the engine under one method."""

    prompt: Prompt
    task: Task
    method: Method

    wanted: tuple[WantedRow, ...]
    """Several rows are filled by one training, which passes through the smaller numbers."""

    choice: MethodChoice | None = None
    """The chosen documents. None for the base model."""

    shown: MethodChoice | None = None
    """The documents of RAG, for a method of the mode "auto"."""

    shares_training: bool = False
    """True if another method of the comparison trains on the same documents."""

    @property
    def most_documents(self) -> int:
        """The largest number of documents among the wanted rows."""
        return max(wanted.documents for wanted in self.wanted)

    def showing(self, shown: MethodChoice) -> Measurement:
        """Return the measurement with other documents, and the time of both retrievals."""
        seconds = shown.seconds + (0.0 if self.choice is None else self.choice.seconds)
        wanted = tuple(replace(each, documents=len(shown.chosen)) for each in self.wanted)
        return replace(self, wanted=wanted, choice=replace(shown, seconds=seconds))

    def failed(self, error: Exception) -> list[Row]:
        """Return the wanted rows without results, with the reason."""
        return [failed_row(wanted.row, error) for wanted in self.wanted]


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """The settings that all measurements share; plain values, for Ray's actors."""

    finetune: FineTuneConfig
    """Requests may differ from the engine's in all but the shape of the adapter."""

    max_tokens: int
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    judge: Judge | None = None
    modes: ModeTable | None = None
    """For methods of the mode "auto"."""

    def scores(self, answer: str, prompt: Prompt) -> dict[str, float]:
        """Return the scores of an answer; a scorer that returns NaN gives no score."""
        metrics = ANSWER_METRICS if prompt.answers else {}
        scores = {name: metric(answer, prompt.answers) for name, metric in metrics.items()}
        custom = {name: float(scorer(answer, prompt)) for name, scorer in self.scorers.items()}
        return scores | {name: value for name, value in custom.items() if math.isfinite(value)}

    def finetune_for(self, method: Method) -> FineTuneConfig:
        """Return the config of a method: HullFT reuses gradients."""
        if method.selection == "hull" and self.finetune.gradient_reuse == 1:
            return replace(self.finetune, gradient_reuse=_HULL_REUSE)
        return self.finetune


def failed_row(row: Row, error: Exception) -> Row:
    """Return a row without results, with the reason."""
    return replace(row, bits=math.nan, failure=reason_of(error))
