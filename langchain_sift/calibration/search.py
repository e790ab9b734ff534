"""Search the settings of fine-tuning one after the other, within a number of steps or minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from langchain_sift.calibration.halving import best_of, halve, percents_of
from langchain_sift.calibration.standard_errors import standard_error
from langchain_sift.calibration.trials import Setting, Trials
from langchain_sift.config import OBJECTIVES, FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.report.intervals import student_quantile

NAMES = {
    "learning_rate": "learning rate",
    "noise_variance": "λ'",
    "steps_per_document": "steps per document",
    "target_modules": "layers",
    "lora_rank": "rank",
}
"""Names of the settings for readers; those that are missing are their own."""

_OTHERS = ("objective", "steps_per_document", "target_modules", "lora_rank")
_RANKS = (16, 64)
_STEPS = (1, 2)
_MORE_RATES = 3  # times that the range of learning rates is extended
_FACTOR = 4.0  # between neighbouring learning rates
_PART = 0.25  # of the time that is left, for each choice
_LEAST_SHOWN = 0.05  # a gain with one decimal, not rounded to 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that one choice compared; they differ only in what it is named after."""

    name: str
    """"learning_rate", "noise_variance" or another field of `FineTuneConfig`."""

    labels: tuple[str, ...]
    settings: tuple[Setting, ...]
    chosen: Setting


class TimeBudget:
    """Convert the minutes that are left to gradient steps, at the speed measured so far.

    Attributes:
        seconds: Time limit of the search.
    """

    def __init__(
        self, minutes: float, trials: Trials, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the time.

        Args:
            minutes: Time limit of the search.
            trials: The trials, whose speed is measured.
            clock: Returns the time in seconds.
        """
        self._clock, self._trials = clock, trials
        self._start = clock()
        self.seconds = 60 * minutes

    def steps(self) -> int:
        """Return the number of gradient steps for which there is time."""
        left = self.seconds - (self._clock() - self._start)
        return max(0, math.floor(left / self.seconds_per_step))

    @property
    def seconds_used(self) -> int:
        """The seconds so far, at most all."""
        return round(min(self.seconds, self._clock() - self._start))

    @property
    def seconds_per_step(self) -> float:
        """Time of a gradient step so far, with its share of the scoring."""
        return max(self._trials.seconds, 1e-6) / max(1, self._trials.steps)


def search_within_steps(
    trials: Trials,
    config: FineTuneConfig,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    budget: int,
) -> Iterator[Choice]:
    """Choose learning rate and λ' with a number of gradient steps; see `halve`.

    Of values of λ' that are equally good, the first is chosen.
    """
    found = halve(trials, config, noise_variances, learning_rates, budget=budget)
    rate = next(found)
    rates = [_with(rate, "learning_rate", value) for value in learning_rates]
    yield _choice("learning_rate", rates, rate)
    noises = [_with(rate, "noise_variance", value) for value in noise_variances]
    yield _choice("noise_variance", noises, next(found))


def search_within_minutes(
    trials: Trials,
    config: FineTuneConfig,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    budget: TimeBudget,
) -> Iterator[Choice]:
    """Choose learning rate, λ', objective, steps, layers and rank, as far as the time goes.

    Each choice has a quarter of the time that is left. The range of learning rates is extended
    while the best is at its end, and the best is compared with the default. Half of the rest
    measures the chosen settings on more prompts. Of values of λ' that are equally good, the first
    is chosen.

    Raises:
        ArgumentError: If the time is too short to measure each learning rate and λ' once.
    """
    middle = sorted(noise_variances)[len(noise_variances) // 2]
    first = Setting(middle, replace(config, learning_rate=learning_rates[0]))
    trials.run([trials.trial(0, first)])
    values = len(learning_rates) + len(noise_variances)
    _check_time(trials, budget, values - 1)
    rates = _search_rates(trials, config, middle, learning_rates, budget)
    yield rates
    noises = [_with(rates.chosen, "noise_variance", value) for value in noise_variances]
    best = best_of(trials, noises, budget=int(_PART * budget.steps()))
    yield _choice("noise_variance", noises, best)
    for name in _OTHERS:
        settings = [_with(best, name, value) for value in _values(name, best, trials)]
        if len(settings) == 1 or budget.steps() < sum(map(trials.cost, settings)):
            continue
        best = best_of(trials, settings, budget=int(_PART * budget.steps()))
        yield _choice(name, settings, best)
        trials.keep_engine(best.config)
    _measure_more(trials, best, budget.steps() // 2)


def uncertainty(trials: Trials, choices: Sequence[Choice], budget: TimeBudget | None) -> str | None:
    """Return a sentence on what a longer search could gain; None if nothing was compared.

    The bound is the upper end of a 95 % interval (Student's) for the gain of another value over
    the chosen one, prompt by prompt. A value that was compared on a single prompt has no bound.
    """
    others = [
        (*_largest_gain(trials, choice.chosen, setting), choice.name, label, setting)
        for choice in choices
        for label, setting in zip(choice.labels, choice.settings, strict=True)
        if setting != choice.chosen
    ]
    bounded = [other for other in others if math.isfinite(other[0])]
    unknown = len(others) - len(bounded)
    if not others:
        return None
    alone = f"{unknown} of {len(others)} other values were compared on a single prompt"
    gain, count, name, label, setting = max(
        bounded, key=lambda other: other[0], default=(0.0, 0, "", "", choices[-1].chosen)
    )
    if gain <= 0:
        if unknown:
            return f"a longer search may find better settings: {alone}, which is too few"
        return "a longer search among these values gains nothing: by 95 % intervals none is better"
    most = f"at most {gain:.1f} points" if gain >= _LEAST_SHOWN else "less than 0.1 points"
    return (
        f"a longer search could gain {most}: {NAMES.get(name, name)} = {label} was compared on "
        f"{count} prompts{_cure(trials, setting, count, budget)}"
        + (f"; {alone}, and are not counted" if unknown else "")
    )


def _cure(trials: Trials, setting: Setting, count: int, budget: TimeBudget | None) -> str:
    """Return what would halve the interval of settings that were compared on some prompts."""
    if 4 * count > len(trials.prompts):
        return f", and {4 * count} (prompts=, --prompts) would halve the doubt"
    if budget is None:
        return ""
    minutes = round(3 * count * 2 * trials.cost(setting) * budget.seconds_per_step / 60)
    return f", and about {_minutes(minutes)} more would halve the doubt"


def _minutes(minutes: float) -> str:
    """Return a time in words, rounded up."""
    return f"{math.ceil(minutes)} minutes" if minutes > 1 else "a minute"


def _search_rates(
    trials: Trials,
    config: FineTuneConfig,
    noise_variance: float,
    learning_rates: Sequence[float],
    budget: TimeBudget,
) -> Choice:
    """Choose the learning rate; try smaller or larger ones while the best is at the end.

    The best of several is then compared with None: the rate that each prompt's first gradient sets.
    """
    start = Setting(noise_variance, config)
    rates = new = sorted(learning_rates)
    best = rates[0]
    for _ in range(1 + _MORE_RATES):
        settings = [_with(start, "learning_rate", rate) for rate in new]
        found = best_of(trials, settings, budget=int(_PART * budget.steps()))
        best = new[settings.index(found)]
        rates = sorted({*rates, *new})
        more = {rates[0]: best / _FACTOR, rates[-1]: best * _FACTOR}.get(best)
        if more is None or len(rates) == 1 or budget.steps() < 4 * 2 * trials.cost(start):
            break
        new = sorted((best, more))
    settings = [_with(start, "learning_rate", rate) for rate in rates]
    chosen, default = settings[rates.index(best)], _with(start, "learning_rate", None)
    if len(rates) > 1 and budget.steps() >= 2 * trials.cost(start):
        chosen = best_of(trials, [chosen, default], budget=int(_PART * budget.steps()))
        settings.append(default)
    return _choice("learning_rate", settings, chosen)


def _values(name: str, setting: Setting, trials: Trials) -> list[object]:
    """Return the values of a field of the config to compare, the present one first."""
    values: Sequence[object] = _RANKS
    if name == "objective":
        values = [each for each in OBJECTIVES if trials.fits(_with(setting, name, each))]
    elif name == "steps_per_document":
        values = _STEPS
    elif name == "target_modules":
        half = f"last-{max(1, trials.decoder_layers // 2)}"
        values = ("all-linear", "attention", "mlp", half)
    return list(dict.fromkeys([getattr(setting.config, name), *values]))


def _with(setting: Setting, name: str, value: object) -> Setting:
    """Return settings with another value. The scale of the update is the same at every rank."""
    if name == "noise_variance":
        return replace(setting, noise_variance=value)  # type: ignore[arg-type]
    config = replace(setting.config, **{name: value})  # type: ignore[arg-type]
    if name == "lora_rank":
        scale = setting.config.lora_alpha / setting.config.lora_rank
        config = replace(config, lora_alpha=scale * config.lora_rank)
    return replace(setting, config=config)


def label_of(value: object) -> str:
    """Return a value of a setting for readers; None is the default learning rate."""
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choice(name: str, settings: Sequence[Setting], chosen: Setting) -> Choice:
    """Return the choice among settings that differ in a value."""
    values = [getattr(each if name == "noise_variance" else each.config, name) for each in settings]
    labels = tuple(map(label_of, values))
    return Choice(name, labels, tuple(settings), chosen)


def _check_time(trials: Trials, budget: TimeBudget, values: int) -> None:
    """Check that there is time to measure some values once.

    Raises:
        ArgumentError: If there is not; it names the time that they need.
    """
    needed = values * trials.counts[-1]
    if budget.steps() < needed:
        minutes = budget.seconds / 60
        least = minutes + (needed - budget.steps()) * budget.seconds_per_step / 60
        raise ArgumentError(
            f"minutes={minutes:g} is too short: the first of {values + 1} values took "
            f"{trials.seconds:.1f} s with {trials.counts[-1]} documents. Allow at least "
            f"{_minutes(least)}, or lower k"
        )


def _measure_more(trials: Trials, setting: Setting, steps: int) -> None:
    """Measure settings on as many more prompts as the steps allow."""
    measured = len(percents_of(trials, setting))
    more = steps // trials.cost(setting)
    prompts = range(measured, min(measured + more, len(trials.prompts)))
    trials.run(trials.trial(prompt, setting) for prompt in prompts)


def _largest_gain(trials: Trials, chosen: Setting, other: Setting) -> tuple[float, int]:
    """Return the largest plausible gain of other settings, and the number of common prompts."""
    first, second = (percents_of(trials, each)[:, -1] for each in (chosen, other))
    count = min(len(first), len(second))
    differences = first[:count] - second[:count]
    if count < 2:
        return math.nan, count
    width = student_quantile(count - 1) * standard_error(differences)
    return float(np.mean(differences)) + width, count
