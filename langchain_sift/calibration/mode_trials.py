"""Compare the modes with the chosen settings, on the held-out prompts.

The settings were chosen for fine-tuning on the same prompts. That favours the modes with
fine-tuning by the part of their gain that is chance, which shrinks with the number of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from langchain_sift.auto_mode import ModeFigures, ModeTable, PromptFigures, table_of
from langchain_sift.calibration.halving import percents_of
from langchain_sift.calibration.standard_errors import first_sufficient
from langchain_sift.calibration.trials import Setting, Trials
from langchain_sift.config import MODES, Mode
from langchain_sift.selection.arguments import Array

FEWEST_PROMPTS = 5
"""With fewer prompts `calibrate` makes no table, and notes that a choice may be chance."""

ENOUGH_PROMPTS = 40
"""With tables of 10 prompts "auto" was 0.8 to 2.0 points behind the best mode, with tables of 40 or
more 0.6 to 0.7: `examples/evidence/real_models.md`."""


@dataclass(frozen=True, slots=True, eq=False)
class ModeMeasurements:
    """The measurements of all modes on the same prompts."""

    percents: Mapping[Mode, Array]
    """Bits in percent of the base model's, of each mode, shape (n,)."""

    seconds: Mapping[Mode, float]
    """Seconds for a prompt, mean over the prompts."""

    uncertainties: tuple[float, ...]
    """σ of each prompt."""

    @property
    def best(self) -> Mode:
        """The fastest mode that is no worse than the best by more than a standard error."""
        order = sorted(self.percents, key=self.seconds.__getitem__)
        return order[first_sufficient(np.column_stack([self.percents[mode] for mode in order]))]

    @property
    def table(self) -> ModeTable | None:
        """The table for the mode "auto". None with fewer than five prompts."""
        if len(self.uncertainties) < FEWEST_PROMPTS:
            return None
        return table_of(
            [
                PromptFigures(
                    uncertainty,
                    {
                        mode: ModeFigures(1 - float(of[number]) / 100, self.seconds[mode])
                        for mode, of in self.percents.items()
                    },
                )
                for number, uncertainty in enumerate(self.uncertainties)
            ]
        )


def measure_modes(
    trials: Trials, setting: Setting, k: int, *, steps: int
) -> ModeMeasurements | None:
    """Measure all modes with settings that were measured with fine-tuning alone.

    Args:
        trials: The trials of the search.
        setting: The settings.
        k: Number of documents, one of those measured.
        steps: Number of gradient steps that there is time for. A prompt in the context costs as
            much as a step on each of its documents, or less.

    Returns:
        None if there is no time for one prompt.
    """
    tuned = percents_of(trials, setting)[:, trials.counts_of(setting.config).index(k)]
    cost = math.ceil(trials.cost(setting) * k / trials.counts[-1]) + 2 * k
    count = min(len(tuned), steps // cost)
    if count == 0:
        return None
    percents: dict[Mode, Array] = {"ttft": tuned[:count]}
    seconds: dict[Mode, float] = {}
    for mode in MODES:
        if mode == "ttft":
            continue
        began = trials.seconds
        of_mode = [
            replace(whole, documents=whole.documents[:k], mode=mode)
            for whole in (trials.trial(prompt, setting) for prompt in range(count))
        ]
        trials.run(of_mode)
        seconds[mode] = (trials.seconds - began) / count
        percents[mode] = np.array([trials.percents(each)[-1] for each in of_mode])
    # Both is fine-tuning and RAG; their trials measure no other number of documents.
    seconds["ttft"] = seconds["base"] + max(0.0, seconds["both"] - seconds["rag"])
    uncertainties = (
        trials.prompts[prompt].uncertainty(k, setting.noise_variance) for prompt in range(count)
    )
    return ModeMeasurements({mode: percents[mode] for mode in MODES}, seconds, tuple(uncertainties))
