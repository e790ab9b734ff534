"""Keep each mode's gain and time on held-out prompts, by the uncertainty about a prompt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from langchain_sift.auto_mode.settings import TableSettings
from langchain_sift.checks import check_integer, is_finite_number
from langchain_sift.config import MODES
from langchain_sift.errors import ArgumentError

# Chosen and checked on different rows: "Mode auto" in examples/evidence/real_models.md.
_MOST_BINS = 6
_LEAST_PROMPTS = 12  # of a bin


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """The figures of a mode, means over prompts."""

    gain: float
    """Gain over the base model: the share of its bits that the mode saves, or the rise of a score
    between 0 and 1. 0 is the base model, below 0 is worse."""

    seconds: float
    """Seconds for a prompt: from the retrieval to the answer if `compare` measured them, those of
    training and scoring alone if `calibrate` did."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If one is no finite number, or the seconds are negative.
        """
        for name in ("gain", "seconds"):
            if not is_finite_number(getattr(self, name)):
                raise ArgumentError(f"{name} must be a number, got {getattr(self, name)!r}")
        if self.seconds < 0:
            raise ArgumentError(f"seconds must not be negative, got {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class ModeBin:
    """The figures on prompts of similar uncertainty."""

    highest: float
    """Highest σ of the bin: the posterior standard deviation of the prompt given its documents."""

    prompts: int
    """Number of prompts measured."""

    figures: Mapping[str, ModeFigures]
    """The figures of each mode that was measured; "base" is one of them."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a mode is unknown, the base model is missing, or a number is out of
                range.
        """
        check_integer("prompts", self.prompts, 1)
        if not is_finite_number(self.highest):
            raise ArgumentError(f"highest must be a number, got {self.highest!r}")
        unknown = self.figures.keys() - set(MODES)
        if unknown or "base" not in self.figures:
            raise ArgumentError(
                f"figures must be of modes, {list(MODES)}, and of base at least, got "
                f"{sorted(self.figures)}"
            )


@dataclass(frozen=True, slots=True)
class ModeTable:
    """The gains and the costs of the modes on held-out prompts of a store."""

    bins: tuple[ModeBin, ...]
    """By ascending uncertainty. Prompts above the last bin belong to it."""

    measured_with: TableSettings | None = None
    """The settings of the measurement. None means that they are not known."""

    def __post_init__(self) -> None:
        """Check the bins.

        Raises:
            ArgumentError: If there is none, or they do not ascend.
        """
        edges = [each.highest for each in self.bins]
        if not edges or any(high <= low for low, high in itertools.pairwise(edges)):
            raise ArgumentError(f"the bins' highest uncertainties must ascend, got {edges}")

    def index_of(self, uncertainty: float) -> int:
        """Return the index of the bin of a prompt with this σ."""
        edges = (each.highest for each in self.bins[:-1])
        return next((n for n, edge in enumerate(edges) if uncertainty <= edge), len(self.bins) - 1)

    def fastest_modes(self, tolerance: float, modes: Collection[str] = MODES) -> tuple[str, ...]:
        """Return the mode of each bin: one mode up to some bin, and one above it.

        They are the fastest such modes whose mean gain over the prompts of all bins is at most
        `tolerance` below that of the best single mode. Bins in which the faster mode loses little
        pay for those in which it would lose much. A mode of its own for each bin would follow the
        noise in their figures. Of equally fast modes, those that gain most.

        Args:
            tolerance: A gain, as in `ModeFigures`.
            modes: The modes to choose from, of those that every bin has; "base" is one of them.
        """
        known = [mode for mode in modes if all(mode in each.figures for each in self.bins)]
        choices = {
            (below,) * number + (above,) * (len(self.bins) - number)
            for below, above in itertools.product(known, repeat=2)
            for number in range(len(self.bins))
        }
        means = {choice: self._means(choice) for choice in sorted(choices)}
        best = max(means[(mode,) * len(self.bins)].gain for mode in known)
        good = [choice for choice, of in means.items() if of.gain >= best - tolerance]
        return min(good, key=lambda choice: (means[choice].seconds, -means[choice].gain))

    def _means(self, choice: Sequence[str]) -> ModeFigures:
        """Return the means over the prompts of all bins, with a mode for each bin."""
        weights = [each.prompts for each in self.bins]
        chosen = [each.figures[mode] for each, mode in zip(self.bins, choice, strict=True)]
        return ModeFigures(
            fmean((of.gain for of in chosen), weights),
            fmean((of.seconds for of in chosen), weights),
        )

    def note_on(self, used: TableSettings | None) -> str | None:
        """Return a sentence on the settings that are not those of the measurement.

        Args:
            used: The settings that the table is used with. None means that they are not known.

        Returns:
            None if all that is known agrees.
        """
        if self.measured_with is None or used is None:
            return None
        return self.measured_with.note_on(used)

    @classmethod
    def from_json(cls, values: object) -> ModeTable:
        """Make a table of the JSON object of a settings file.

        Raises:
            ArgumentError: If a value is missing, unknown or out of range.
        """
        try:
            bins = values["bins"]  # type: ignore[index]
            measured_with = values.get("measured_with")  # type: ignore[attr-defined]
            return cls(
                tuple(
                    ModeBin(
                        each["highest"],
                        each["prompts"],
                        {mode: ModeFigures(**of) for mode, of in each["figures"].items()},
                    )
                    for each in bins
                ),
                None if measured_with is None else TableSettings(**measured_with),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ArgumentError(f"no table of modes: {error}: measure the modes again") from error


def check_table(modes: object) -> None:
    """Check that an argument is a table of modes, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if not isinstance(modes, ModeTable | None):
        raise ArgumentError(
            "modes must be a ModeTable, such as CalibratedSettings.load(file).modes, got a "
            f"{type(modes).__name__}"
        )


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """The figures of one prompt under all modes."""

    uncertainty: float
    """σ of the prompt."""

    figures: Mapping[str, ModeFigures]


def table_of(prompts: Sequence[PromptFigures]) -> ModeTable:
    """Return the table of prompts, in up to six bins with as many prompts each.

    Only modes that were measured on every prompt are in the table.

    Args:
        prompts: At least one. No bin has fewer than twelve, unless it is the only one.

    Raises:
        ArgumentError: If there is no prompt with a known uncertainty.
    """
    known = sorted(
        (prompt for prompt in prompts if math.isfinite(prompt.uncertainty)),
        key=lambda prompt: prompt.uncertainty,
    )
    if not known:
        raise ArgumentError("no prompt has a known uncertainty: measure SIFT's choice of documents")
    modes = [mode for mode in MODES if all(mode in prompt.figures for prompt in known)]
    count = max(1, min(_MOST_BINS, len(known) // _LEAST_PROMPTS))
    edges = (round(len(known) * number / count) for number in range(1, count))
    cuts = [n for n in edges if known[n - 1].uncertainty < known[n].uncertainty]
    parts = [known[start:end] for start, end in itertools.pairwise([0, *cuts, len(known)])]
    return ModeTable(
        tuple(
            ModeBin(
                part[-1].uncertainty,
                len(part),
                {
                    mode: ModeFigures(
                        fmean(prompt.figures[mode].gain for prompt in part),
                        fmean(prompt.figures[mode].seconds for prompt in part),
                    )
                    for mode in modes
                },
            )
            for part in parts
        )
    )
