"""Report the settings of retrieval that a calibration chose, and the measurements behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langchain_sift.calibrated_settings import CalibratedSelection, CalibratedSettings
from langchain_sift.calibration.cross_validation import HeldOutScores
from langchain_sift.report.intervals import Verdict
from langchain_sift.report.rows import plain
from langchain_sift.retrieval.defaults import KernelSettings


@dataclass(frozen=True, slots=True)
class KernelPoint:
    """The scores of one kernel and λ', with the largest k."""

    settings: KernelSettings
    scores: tuple[float, ...]
    """Mean over the queries, for each kind of query."""


@dataclass(frozen=True, slots=True)
class DocumentsPoint:
    """The score of one number of documents, with the chosen kernel and λ'."""

    k: int
    score: float
    nearest: float
    """Score of as many nearest neighbours."""


@dataclass(frozen=True, slots=True)
class RetrievalCalibration:
    """The chosen settings of retrieval, and the measurements behind them."""

    selection: CalibratedSelection

    labelled: bool
    """True if the queries came with labels; False if they were made from the store."""

    queries: int
    """Number of queries of each kind. Labelled ones are of one kind, named after the metric; made
    ones are "one sentence" and "two sentences"."""

    kernels: tuple[KernelPoint, ...]
    nearest: tuple[float, ...]
    """Mean score of nearest neighbours with the largest k, for each kind of query."""

    counts: tuple[DocumentsPoint, ...]
    held_out: tuple[HeldOutScores, ...]
    """Scores on queries that had no part in the choice, for each kind of query."""

    verdict: Verdict
    """Result for the chosen settings against nearest neighbours, on held-out queries of the last
    kind."""

    notes: tuple[str, ...]
    """Warnings for the user."""

    @property
    def settings(self) -> CalibratedSettings:
        """The chosen settings as a settings file has them."""
        return CalibratedSettings(retrieval=self.selection)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; NaN becomes None."""
        return dict(plain({**asdict(self), "settings": self.settings.to_json()}))
