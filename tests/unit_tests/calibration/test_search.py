"""Search one setting after the other, with trials whose results are known."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from langchain_sift import FineTuneConfig
from langchain_sift.calibration.mode_trials import measure_modes
from langchain_sift.calibration.search import (
    Choice,
    TimeBudget,
    search_within_minutes,
    search_within_steps,
    uncertainty,
)
from langchain_sift.calibration.trials import Setting, Trials
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_sift.calibration.trials import Trial

CONFIG = FineTuneConfig(lora_rank=16, lora_alpha=16.0)
NOISES, RATES = (0.01, 0.1, 1.0), (1e-3, 4e-3)
LAYERS = ("all-linear", "attention", "mlp", "last-3")


class Clock:
    """A clock that only trials move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class KnownTrials(Trials):
    """Trials with a known percentage for each setting, and a known time for each step."""

    def __init__(
        self, percent: Callable[[int, Trial], float], prompts: int, seconds_per_step: float
    ) -> None:
        self.now = Clock()
        super().__init__(None, [None] * prompts, (1, 2, 4), clock=self.now)
        self._percent, self._pace = percent, seconds_per_step

    decoder_layers = 6

    fitting: tuple[str, ...] = ("text", "distill")

    def fits(self, setting: Setting) -> bool:
        return setting.config.objective in self.fitting

    def documents(self, prompt: int, noise_variance: float) -> tuple[int, ...]:
        return (prompt, NOISES.index(noise_variance))

    def run(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if not self.is_done(trial):
                steps = self.counts[-1] * trial.config.steps_per_document
                counts = self.counts_of(trial.config)
                self._percents[trial] = np.full(len(counts), self._percent(trial.prompt, trial))
                self.steps += steps
                self.seconds += steps * self._pace
                self.now.now += steps * self._pace


def found_within(minutes: float, trials: KnownTrials) -> dict[str, Setting]:
    budget = TimeBudget(minutes, trials, trials.now)
    choices = search_within_minutes(trials, CONFIG, NOISES, RATES, budget=budget)
    return {choice.name: choice.chosen for choice in choices}


@settings(max_examples=40)
@given(
    # A fixed rate, and how much better or worse the default is.
    rate=st.sampled_from([1e-3 / 16, 1e-3 / 4, *RATES, 16e-3]),
    default=st.sampled_from([-0.5, 0.5]),
    noise=st.sampled_from(NOISES),
    fields=st.fixed_dictionaries(
        {
            "objective": st.sampled_from(["text", "distill"]),
            "steps_per_document": st.sampled_from([1, 2]),
            "target_modules": st.sampled_from(LAYERS),
            "lora_rank": st.sampled_from([16, 64]),
        }
    ),
)
def test_the_best_of_each_setting_is_found(
    rate: float, default: float, noise: float, fields: dict[str, object]
) -> None:
    def percent(prompt: int, trial: Trial) -> float:
        config = trial.config
        return (
            50.0
            + prompt
            + (
                default
                if config.learning_rate is None
                else abs(np.log2(config.learning_rate / rate))
            )
            + (trial.documents[1] != NOISES.index(noise))
            + sum(getattr(config, name) != value for name, value in fields.items())
        )

    found = found_within(60, KnownTrials(percent, 12, 0.01))
    assert found.keys() == {"learning_rate", "noise_variance", *fields}
    best = found["lora_rank"]  # the last choice
    assert best.config.learning_rate == (None if default < 0 else pytest.approx(rate))
    assert best.noise_variance == noise
    expected = replace(CONFIG, **fields, learning_rate=best.config.learning_rate)
    # The scale of the update is the same at every rank.
    assert best.config == replace(expected, lora_alpha=float(expected.lora_rank))


@settings(max_examples=60)
@given(st.floats(0.5, 50), st.floats(0.001, 10), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_time_is_kept_up_to_what_was_begun(
    minutes: float, pace: float, prompts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    trials = KnownTrials(lambda *_: float(rng.normal(80, 5)), prompts, pace)
    one_of_each = (len(NOISES) + len(RATES)) * 4 * pace
    if 60 * minutes < one_of_each - 4 * pace:
        with pytest.raises(ArgumentError, match=r"is too short.*at least (a minute|\d+ minutes)"):
            found_within(minutes, trials)
        assert trials.seconds == pytest.approx(4 * pace)  # one trial
    else:
        found_within(minutes, trials)
        # Each choice measures each value at least once.
        assert trials.seconds <= 60 * minutes + one_of_each
        assert len(trials._percents) > len(NOISES)


MODE_PERCENTS = {"base": 100.0, "rag": 80.0, "ttft": 90.0, "both": 70.0}
STEPS = {"base": 0.1, "rag": 1, "ttft": 4, "both": 5}


class ModeTrials(Trials):
    """Trials of modes with known percentages and times."""

    def __init__(self, percents: dict[str, float], prompts: int) -> None:
        super().__init__(None, [KnownUncertainty(n / prompts) for n in range(prompts)], (1, 2, 4))
        self._known = percents
        setting = Setting(NOISES[0], CONFIG)
        self.run([self.trial(prompt, setting) for prompt in range(prompts)])

    def documents(self, *_: object) -> tuple[int, ...]:
        return tuple(range(4))

    def run(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            assert trial.documents == (tuple(range(4)) if trial.mode == "ttft" else (0, 1))
            value = self._known[trial.mode] + (-1) ** trial.prompt
            self._percents[trial] = np.full(3 if trial.mode == "ttft" else 1, value)
            self.seconds += STEPS[trial.mode]


class KnownUncertainty:
    """A prompt with a known σ."""

    def __init__(self, sigma: float) -> None:
        self._sigma = sigma

    def uncertainty(self, k: int, noise_variance: float) -> float:
        assert (k, noise_variance) == (2, NOISES[0])
        return self._sigma


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({}, "both"),
        ({"both": 80.0}, "rag"),  # as good, and slower
        ({"rag": 101.0, "both": 95.0}, "ttft"),
        (dict.fromkeys(MODE_PERCENTS, 100.0), "base"),
    ],
)
def test_the_fastest_mode_that_is_as_good_as_the_best_is_recommended(
    changes: dict[str, float], best: str
) -> None:
    percents = MODE_PERCENTS | changes
    trials = ModeTrials(percents, 20)
    setting = Setting(NOISES[0], CONFIG)
    found = measure_modes(trials, setting, 2, steps=1000)
    assert found is not None
    assert found.best == best
    assert {mode: of.mean() for mode, of in found.percents.items()} == pytest.approx(percents)
    assert [found.seconds[mode] for mode in MODE_PERCENTS] == pytest.approx([0.1, 1, 4.1, 5])
    table = found.table
    assert table is not None
    assert [each.prompts for each in table.bins] == [20]
    for each in table.bins:
        gains = {mode: of.gain for mode, of in each.figures.items()}
        assert gains == pytest.approx({m: 1 - of / 100 for m, of in percents.items()}, abs=0.01)
    few = measure_modes(trials, setting, 2, steps=4 * 6)
    assert few is not None
    assert (len(few.uncertainties), few.table) == (4, None)
    assert measure_modes(trials, setting, 2, steps=5) is None


def test_a_longer_search_gains_at_most_the_upper_end_of_an_interval() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (40, len(NOISES)))
    trials = KnownTrials(
        lambda prompt, trial: 80 + float(noise[prompt, trial.documents[1]]), 40, 1.0
    )
    choices = list(search_within_steps(trials, CONFIG, NOISES, RATES[:1], budget=4 * 40 * 3))
    chosen = choices[-1].chosen
    column = NOISES.index(chosen.noise_variance)
    bounds = []
    for other in set(range(len(NOISES))) - {column}:
        count = len([1 for trial in trials._percents if trial.documents[1] == other])
        gains = (noise[:, column] - noise[:, other])[:count]
        quantile = student_t.ppf(0.975, count - 1)
        bounds.append(gains.mean() + quantile * gains.std(ddof=1) / count**0.5)
    sentence = uncertainty(trials, choices, None)
    assert sentence is not None
    assert f"at most {max(bounds):.1f} points: λ' = " in sentence
    one = list(search_within_steps(trials, CONFIG, NOISES[:1], RATES[:1], budget=4))
    assert uncertainty(trials, one, None) is None


def compared(gains: dict[tuple[int, int], float], prompts: int) -> tuple[KnownTrials, list[Choice]]:
    """Return trials and the choice of the first λ'; `gains` has those of others, by prompt."""
    trials = KnownTrials(
        lambda prompt, trial: 80.0 - gains.get((prompt, trial.documents[1]), 0.0), prompts, 1.0
    )
    settings = [Setting(noise, CONFIG) for noise in NOISES]
    trials.run(trials.trial(prompt, settings[0]) for prompt in range(prompts))
    trials.run(trials.trial(prompt, settings[noise]) for prompt, noise in gains)
    return trials, [Choice("noise_variance", ("0.01", "0.1", "1"), tuple(settings), settings[0])]


def test_a_value_that_one_prompt_compared_may_be_better() -> None:
    worse = {(0, 1): -5.0, (0, 2): -5.0}
    sentence = uncertainty(*compared(worse, 8), None)
    assert sentence is not None
    assert "may find better" in sentence
    assert "2 of 2 other values were compared on a single prompt" in sentence
    known = {(1, 1): -5.1, (2, 1): -4.9, (1, 2): -5.1, (2, 2): -4.9}
    sentence = uncertainty(*compared(worse | known, 8), None)
    assert sentence is not None
    assert "gains nothing" in sentence
    assert "none is better" in sentence
    better = {(1, 1): 5.0}
    sentence = uncertainty(*compared(worse | better, 8), None)
    assert sentence is not None
    assert "λ' = 0.1 was compared on 2 prompts" in sentence
    assert "1 of 2 other values were compared on a single prompt" in sentence


@pytest.mark.parametrize(
    ("prompts", "minutes", "cure"),
    [(8, 1, "about a minute more would"), (8, None, None), (7, 1, r"8 \(prompts=, --prompts\)")],
)
def test_more_prompts_than_were_held_out_take_more_than_time(
    prompts: int, minutes: float | None, cure: str | None
) -> None:
    gains = {(0, 1): -5.0, (1, 1): 5.0, (0, 2): -5.0, (1, 2): -5.0}
    trials, choices = compared(gains, prompts)
    budget = None if minutes is None else TimeBudget(minutes, trials, trials.now)
    sentence = uncertainty(trials, choices, budget)
    assert sentence is not None
    assert "was compared on 2 prompts" in sentence
    assert ("halve the doubt" in sentence) is (cure is not None)
    assert cure is None or re.search(cure, sentence)
