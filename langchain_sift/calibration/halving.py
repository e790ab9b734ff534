"""Choose settings by successive halving: measure the better half on more prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from langchain_sift.calibration.trials import Setting, Trials
from langchain_sift.config import FineTuneConfig
from langchain_sift.selection.arguments import Array

# Share of the budget for the learning rate. It matters far more than λ', so that fewer trials
# tell its values apart (the grids in `examples/evidence/calibration.json`).
_SHARE_OF_RATES = 0.2


def halve(
    trials: Trials,
    config: FineTuneConfig,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    budget: int,
) -> Iterator[Setting]:
    """Choose the learning rate, and then λ' at that rate, each by successive halving.

    The best value of one depends little on the other: `examples/evidence/calibration.json`.

    Args:
        trials: The trials on the held-out prompts.
        config: The other settings of fine-tuning.
        noise_variances: At least one value of λ'. Of equally good ones, the first is chosen.
        learning_rates: At least one learning rate.
        budget: Number of gradient steps for both; each value is measured on at least one prompt.

    Yields:
        The best of the learning rates, all at the median λ', and then the best of all.
    """
    middle = sorted(noise_variances)[len(noise_variances) // 2]
    configs = [replace(config, learning_rate=rate) for rate in learning_rates]
    share = 1.0 if len(noise_variances) == 1 else _SHARE_OF_RATES
    before = trials.steps
    rates = [Setting(middle, each) for each in configs]
    rate = rates[0] if len(rates) == 1 else best_of(trials, rates, budget=int(share * budget))
    yield rate
    settings = [replace(rate, noise_variance=value) for value in noise_variances]
    yield best_of(trials, settings, budget=budget - trials.steps + before)


def best_of(trials: Trials, settings: Sequence[Setting], *, budget: int) -> Setting:
    """Choose the best of several settings by successive halving.

    Jamieson & Talwalkar (2016): every round has the same share of the budget, measures the
    remaining settings on more prompts, and keeps the better half.

    Args:
        trials: The trials.
        settings: At least one.
        budget: Number of gradient steps for all.
    """
    remaining = list(settings)
    rounds = max(1, math.ceil(math.log2(len(remaining))))
    before, measured = trials.steps, 0
    for number in range(rounds):
        left = (budget - (trials.steps - before)) // (rounds - number)
        costs = sum(map(trials.cost, remaining))
        # Each setting needs at least one measurement, whatever it costs.
        measured = min(measured + max(left // costs, 0 if measured else 1), len(trials.prompts))
        prompts = range(measured)
        trials.run(trials.trial(prompt, each) for prompt in prompts for each in remaining)
        means = [
            np.mean([trials.percents(trials.trial(prompt, each))[-1] for prompt in prompts])
            for each in remaining
        ]
        remaining = [remaining[index] for index in _better_half(np.array(means))]
    return remaining[0]


def _better_half(means: Array) -> list[int]:
    """Return the indices of the lower half, ascending; of equal means, the first."""
    order = np.argsort(means, kind="stable")[: (len(means) + 1) // 2]
    return sorted(order.tolist())


def percents_of(trials: Trials, setting: Setting) -> Array:
    """Return the measurements of settings, shape (n, counts of the config).

    They cover the first n prompts, up to the first that was not measured. Later prompts may have
    measurements too, if another λ' chose the same documents.
    """
    found = (trials.trial(prompt, setting) for prompt in range(len(trials.prompts)))
    measured = [trials.percents(trial) for trial in itertools.takewhile(trials.is_done, found)]
    return np.array(measured).reshape(-1, len(trials.counts_of(setting.config)))
