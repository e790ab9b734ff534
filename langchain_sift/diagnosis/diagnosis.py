"""Report the state of a store, and advise on SIFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
from langchain_sift.diagnosis.lengths import Lengths
from langchain_sift.diagnosis.row_counts import RowCounts
from langchain_sift.diagnosis.similarities import Similarities
from langchain_sift.report.rows import plain


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a store."""

    rows: RowCounts
    similarities: Similarities
    languages: Mapping[str, float]
    """Fraction of the sampled texts in each language, by ISO 639-1 code; "und" is unknown."""

    lengths: Lengths
    calibration: RetrievalCalibration | None
    """The settings chosen without labels. None if the store has too few texts, or no embeddings
    that fit."""

    problems: tuple[str, ...]
    """Faults of the store, each with its cure."""

    advice: str
    """A short text on what SIFT will bring in this store, and with which settings."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; NaN becomes None."""
        calibration = None if self.calibration is None else self.calibration.to_json()
        return dict(plain({**asdict(self), "calibration": calibration}))
