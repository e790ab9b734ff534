"""What a calibration found: the settings that were chosen, and what speaks for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.report.rows import plain


@dataclass(frozen=True, slots=True)
class Estimate:
    """How well some settings did."""

    percent_of_base: float
    """Bits of the held-out texts in percent of the base model's, mean over prompts."""

    standard_error: float
    """Over prompts; NaN for a single one."""

    difference: float
    """Points more than the settings that were chosen, on the same prompts."""

    standard_error_of_difference: float
    prompts: int


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """One λ'."""

    noise_variance: float
    surrogate: float
    """Log likelihood of what the texts say, given their embeddings, in nats per number."""

    distinct_documents: float
    """How many different documents it chooses, mean over prompts."""

    measured: Estimate | None
    """At the chosen learning rate; None where the surrogate spoke against it."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One learning rate, with a λ' in the middle of those that were tried."""

    learning_rate: float
    measured: Estimate


@dataclass(frozen=True, slots=True)
class CountPoint:
    """One number of documents, with the chosen λ' and learning rate."""

    k: int
    measured: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """The settings that were chosen, and what speaks for them."""

    settings: CalibratedSettings
    noise_variances: tuple[NoisePoint, ...]
    learning_rates: tuple[RatePoint, ...]
    counts: tuple[CountPoint, ...]
    held_out: int
    """Prompts that there were."""

    steps: int
    """Gradient steps that were taken."""

    grid_steps: int
    """Gradient steps of fine-tuning for every prompt with every λ' and learning rate."""

    notes: tuple[str, ...]
    """What to be aware of."""

    @property
    def chosen(self) -> Estimate:
        """How well the chosen settings did."""
        return next(p.measured for p in self.counts if p.k == self.settings.k)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, NaN as None."""
        found = {**asdict(self), "settings": self.settings.to_json()}
        values: dict[str, Any] = plain(found)
        return values
