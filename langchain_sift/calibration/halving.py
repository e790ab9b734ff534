"""Choose settings by successive halving: measure the better half on more prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.calibration.trials import Trial, Trials
from langchain_sift.selection.arguments import Array

# Share of the budget for the learning rate. It matters far more than λ', so that fewer trials
# tell its values apart.
_SHARE_OF_RATES = 0.2


@dataclass(frozen=True, slots=True)
class Best:
    """The settings that fine-tuning measured as best."""

    noise_variance: float
    learning_rate: float
    noise_variance_of_rates: float
    """λ' at which the learning rates were compared."""


def halve(
    trials: Trials,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    k: int,
    budget: int,
) -> Best:
    """Choose the learning rate, and then λ' at that rate, each by successive halving.

    The best value of one depends little on the other.

    Args:
        trials: The trials on the held-out prompts.
        noise_variances: At least one value of λ', ascending.
        learning_rates: At least one learning rate.
        k: Number of documents of a trial.
        budget: Number of gradient steps for both; each value is measured on at least one prompt.
    """
    middle = noise_variances[len(noise_variances) // 2]
    rate = learning_rates[0]
    if len(learning_rates) > 1:
        share = 1.0 if len(noise_variances) == 1 else _SHARE_OF_RATES
        rate = _best(
            trials,
            learning_rates,
            lambda value, prompt: trials.trial(prompt, middle, value),
            steps=k,
            budget=int(share * budget),
        )
    noise_variance = _best(
        trials,
        noise_variances,
        lambda value, prompt: trials.trial(prompt, value, rate),
        steps=k,
        budget=budget - trials.steps,
    )
    return Best(noise_variance, rate, middle)


def _best(
    trials: Trials,
    values: Sequence[float],
    trial_of: Callable[[float, int], Trial],
    *,
    steps: int,
    budget: int,
) -> float:
    """Choose the best of several values by successive halving.

    Jamieson & Talwalkar (2016): every round has the same share of the budget, measures the
    remaining values on more prompts, and keeps the better half.

    Args:
        trials: The trials.
        values: At least one value.
        trial_of: Returns the trial of a value on a prompt.
        steps: Number of gradient steps of a trial.
        budget: Number of gradient steps for all.
    """
    rounds = max(1, math.ceil(math.log2(len(values))))
    steps_before, measured = trials.steps, 0
    for number in range(rounds):
        remaining = budget - (trials.steps - steps_before)
        # Each value needs at least one measurement, whatever it costs.
        more = max(remaining // (rounds - number) // (len(values) * steps), 0 if measured else 1)
        measured = min(measured + more, len(trials.prompts))
        prompts = range(measured)
        trials.run(trial_of(value, prompt) for prompt in prompts for value in values)
        means = [
            np.mean([trials.percents(trial_of(value, prompt))[-1] for prompt in prompts])
            for value in values
        ]
        values = [values[index] for index in _better_half(np.array(means))]
    return values[0]


def _better_half(means: Array) -> list[int]:
    """Return the indices of the lower half, ascending; of equal means, the first."""
    order = np.argsort(means, kind="stable")[: (len(means) + 1) // 2]
    return sorted(order.tolist())


def percents_of(trials: Trials, noise_variance: float, learning_rate: float) -> Array:
    """Return the measurements of a pair of settings, shape (n, counts).

    They cover the first n prompts, up to the first that was not measured. Later prompts may have
    measurements too, if another λ' chose the same documents.
    """
    prompts = range(len(trials.prompts))
    pairs = (trials.trial(prompt, noise_variance, learning_rate) for prompt in prompts)
    measured = [trials.percents(trial) for trial in itertools.takewhile(trials.is_done, pairs)]
    return np.array(measured).reshape(-1, len(trials.counts))
