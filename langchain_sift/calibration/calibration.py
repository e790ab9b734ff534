"""Report the settings that a calibration chose, and the measurements behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.report.rows import plain


@dataclass(frozen=True, slots=True)
class Estimate:
    """The quality of one combination of settings."""

    percent_of_base: float
    """Bits of the held-out texts, in percent of the base model's, mean over prompts."""

    standard_error: float
    """Standard error over prompts. NaN for a single prompt."""

    difference: float
    """Difference from the chosen settings on the same prompts, in percentage points."""

    standard_error_of_difference: float
    prompts: int


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """The measurements of one λ'."""

    noise_variance: float
    surrogate: float
    """Log likelihood of the texts given their embeddings, in nats per number."""

    measured: Estimate | None
    """Quality at the chosen learning rate. None if the surrogate dropped this λ'."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """The measurement of one learning rate, with the median of the promising λ'."""

    learning_rate: float | None
    """None means the default: the rate that each prompt's first gradient sets."""

    measured: Estimate


@dataclass(frozen=True, slots=True)
class CountPoint:
    """The measurement of one number of documents, with the chosen λ' and learning rate."""

    k: int
    measured: Estimate


@dataclass(frozen=True, slots=True)
class ValuePoint:
    """The measurement of one value of another field of `FineTuneConfig`, or of a mode."""

    name: str
    value: str
    measured: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen settings, and the measurements behind them."""

    settings: CalibratedSettings
    noise_variances: tuple[NoisePoint, ...]
    learning_rates: tuple[RatePoint, ...]
    counts: tuple[CountPoint, ...]
    held_out: int
    """Number of held-out prompts."""

    steps: int
    """Number of gradient steps taken."""

    grid_steps: int
    """Number of gradient steps of a full grid: every prompt, λ' and learning rate."""

    notes: tuple[str, ...]
    """Warnings for the user, and what a longer search could gain."""

    others: tuple[ValuePoint, ...] = ()
    """The other settings that a search within minutes compared."""

    interrupted: bool = False
    """True if an interrupt ended the search: the settings are those found until then."""

    @property
    def chosen(self) -> Estimate:
        """Quality of the chosen settings."""
        k = self.settings.selection(for_training=True).k
        return next(point.measured for point in self.counts if point.k == k)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; NaN becomes None."""
        return dict(plain({**asdict(self), "settings": self.settings.to_json()}))
