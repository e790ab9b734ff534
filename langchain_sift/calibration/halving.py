"""Successive halving: the better half of the settings goes on, and is measured on more prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.calibration.trials import Trials
from langchain_sift.stores.adapter import Array


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the fine-tunings spoke for."""

    noise_variance: float
    learning_rate: float
    prompts: int
    """Those that it was measured on, the first ones."""


def halve(
    trials: Trials,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    k: int,
    budget: int,
) -> Chosen:
    """Choose by successive halving, Jamieson & Talwalkar (2016), over the pairs of both.

    Each round has the same share of the budget and measures all pairs that are left on more
    prompts; then the better half of the learning rates is kept, by their mean over the λ' that
    are left, and the better half of the λ', by their mean over these rates: what one of them
    does depends little on the other, and means of several pairs are surer than each.

    Args:
        trials: Of the held-out prompts.
        noise_variances: At least one.
        learning_rates: At least one.
        k: Documents of a fine-tuning.
        budget: Gradient steps for all.
    """
    rounds = max(1, *(math.ceil(math.log2(len(v))) for v in (noise_variances, learning_rates)))
    measured = 0
    for number in range(rounds):
        pairs = len(noise_variances) * len(learning_rates)
        room = (budget - trials.steps) // (rounds - number) // (pairs * k)
        # What was chosen must have been measured, whatever it costs.
        more = max(room, 0 if measured else 1)
        measured = min(measured + more, len(trials.prompts))
        trials.run(
            trials.of(prompt, noise_variance, rate)
            for prompt in range(measured)
            for noise_variance in noise_variances
            for rate in learning_rates
        )
        means = np.array(
            [
                [percents_of(trials, v, r, measured)[:, -1].mean() for r in learning_rates]
                for v in noise_variances
            ]
        )
        rates = _better_half(means.mean(axis=0))
        kept = _better_half(means[:, rates].mean(axis=1))
        learning_rates = [learning_rates[place] for place in rates]
        noise_variances = [noise_variances[place] for place in kept]
    return Chosen(noise_variances[0], learning_rates[0], measured)


def _better_half(means: Array) -> list[int]:
    """Return the places of the lower half, ascending; of equal ones, the first."""
    order = np.argsort(means, kind="stable")[: (len(means) + 1) // 2]
    return sorted(order.tolist())


def percents_of(trials: Trials, noise_variance: float, learning_rate: float, prompts: int) -> Array:
    """Return the percents of the first prompts, as far as there are some, shape (n, counts)."""
    own = [trials.of(prompt, noise_variance, learning_rate) for prompt in range(prompts)]
    done = [trials.percents(trial) for trial in own if trials.is_done(trial)]
    return np.array(done).reshape(-1, len(trials.counts))
