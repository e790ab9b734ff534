"""Hold the documents that a method chose for a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from langchain_core.documents import Document

from langchain_sift.auto_mode import UNRELATED_GAIN
from langchain_sift.report.rows import ChosenDocument
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import stopping_point


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """The documents that a method chose for a prompt, in the order of choice."""

    chosen: tuple[ChosenDocument, ...]
    documents: tuple[Document, ...]
    """The same as documents with their metadata."""

    prior_variance: float

    similarities: Array | None
    """Cosines among the chosen, shape (k, k). None if they are not known."""

    labels: tuple[str, ...]
    """The name of each document in the labels of prompts, as `Corpus.label_of`."""

    sources: tuple[str | None, ...]
    """The source of each document in its metadata. None if it names none."""

    seconds: float

    unrelated_gain: float = UNRELATED_GAIN
    """`SelectionSettings.unrelated_gain` of the choice."""

    def first(self, count: int) -> MethodChoice:
        """Return the first documents of the choice."""
        among = self.similarities
        return replace(
            self,
            chosen=self.chosen[:count],
            documents=self.documents[:count],
            labels=self.labels[:count],
            sources=self.sources[:count],
            similarities=None if among is None else among[:count, :count],
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the documents."""
        return tuple(document.page_content for document in self.documents)

    @property
    def redundancy(self) -> float:
        """Mean over the choices after the first of the highest cosine with an earlier one."""
        among = self.similarities
        if among is None or len(among) < 2:
            return math.nan
        return float(np.mean([row[:n].max() for n, row in enumerate(among) if n]))

    def distinct_sources(self, indices: Iterable[int]) -> int | None:
        """Return the number of different sources of some documents; None if none names one.

        A document without a source is a source by itself.
        """
        pairs = [(self.sources[index], self.chosen[index].id) for index in indices]
        if not any(source for source, _ in pairs):
            return None
        return len({(source, None if source else name) for source, name in pairs})

    @property
    def uncertainty(self) -> float | None:
        """Posterior standard deviation of the prompt given the documents; None if unknown."""
        variance = self.chosen[-1].posterior_variance if self.chosen else math.nan
        return math.sqrt(max(0.0, variance)) if math.isfinite(variance) else None

    def stopping_point(self, alpha: float) -> int:
        """Return the number of documents after which adaptive SIFT would stop."""
        variances = [document.posterior_variance for document in self.chosen]
        return stopping_point(variances, alpha=alpha) or len(self.chosen)
