"""Successive halving: the better half of the settings goes on, and is measured on more prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.calibration.trials import Trial, Trials
from langchain_sift.selection.arguments import Array

# Of the budget: a learning rate does far more than λ', and is told from others sooner.
_FOR_THE_RATE = 0.2


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the fine-tunings spoke for."""

    noise_variance: float
    learning_rate: float
    noise_variance_of_rates: float
    """The λ' with which the learning rates were compared."""


def halve(
    trials: Trials,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    k: int,
    budget: int,
) -> Chosen:
    """Choose the learning rate, and then λ' with that rate, each by successive halving.

    What is best of one of them depends little on the other.

    Args:
        trials: Of the held-out prompts.
        noise_variances: At least one, ascending.
        learning_rates: At least one.
        k: Documents of a fine-tuning.
        budget: Gradient steps for all; each value of both is measured on one prompt at least.
    """
    middle = noise_variances[len(noise_variances) // 2]
    rate = learning_rates[0]
    if len(learning_rates) > 1:
        share = 1.0 if len(noise_variances) == 1 else _FOR_THE_RATE
        rate = _best(
            trials,
            learning_rates,
            lambda value, prompt: trials.of(prompt, middle, value),
            steps=k,
            budget=int(share * budget),
        )
    noise_variance = _best(
        trials,
        noise_variances,
        lambda value, prompt: trials.of(prompt, value, rate),
        steps=k,
        budget=budget - trials.steps,
    )
    return Chosen(noise_variance, rate, middle)


def _best(
    trials: Trials,
    values: Sequence[float],
    trial_of: Callable[[float, int], Trial],
    *,
    steps: int,
    budget: int,
) -> float:
    """Return the best of some values, by successive halving.

    Jamieson & Talwalkar (2016): each round has the same share of the budget, measures what is left
    on more prompts, and keeps the better half.

    Args:
        trials: Where they are done.
        values: At least one.
        trial_of: Gives the trial of a value on a prompt.
        steps: Of a trial.
        budget: Gradient steps for all.
    """
    rounds = max(1, math.ceil(math.log2(len(values))))
    before, measured = trials.steps, 0
    for number in range(rounds):
        left = budget - (trials.steps - before)
        # What is chosen must have been measured, whatever it costs.
        more = max(left // (rounds - number) // (len(values) * steps), 0 if measured else 1)
        measured = min(measured + more, len(trials.prompts))
        prompts = range(measured)
        trials.run(trial_of(value, prompt) for prompt in prompts for value in values)
        means = [
            np.mean([trials.percents(trial_of(value, prompt))[-1] for prompt in prompts])
            for value in values
        ]
        values = [values[place] for place in _better_half(np.array(means))]
    return values[0]


def _better_half(means: Array) -> list[int]:
    """Return the places of the lower half, ascending; of equal ones, the first."""
    order = np.argsort(means, kind="stable")[: (len(means) + 1) // 2]
    return sorted(order.tolist())


def percents_of(trials: Trials, noise_variance: float, learning_rate: float) -> Array:
    """Return the percents of the first prompts, all those up to one not measured, (n, counts).

    A λ' may be measured on later ones too, where it chooses what another chose.
    """
    prompts = range(len(trials.prompts))
    own = (trials.of(prompt, noise_variance, learning_rate) for prompt in prompts)
    done = [trials.percents(trial) for trial in itertools.takewhile(trials.is_done, own)]
    return np.array(done).reshape(-1, len(trials.counts))
