"""Conclude a calibration: the settings, and the measurements behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from langchain_sift.auto_mode import TableSettings
from langchain_sift.calibrated_settings import (
    CalibratedFineTuning,
    CalibratedSelection,
    CalibratedSettings,
)
from langchain_sift.calibration.calibration import (
    Calibration,
    CountPoint,
    Estimate,
    NoisePoint,
    RatePoint,
    ValuePoint,
)
from langchain_sift.calibration.halving import percents_of
from langchain_sift.calibration.mode_trials import FEWEST_PROMPTS, ModeMeasurements
from langchain_sift.calibration.search import Choice
from langchain_sift.calibration.standard_errors import first_sufficient, standard_error
from langchain_sift.calibration.trials import Setting, Trials
from langchain_sift.report.intervals import student_quantile
from langchain_sift.selection.arguments import Array

_INTERRUPTED = "interrupted: the settings are those found until then"


def conclude(
    trials: Trials,
    choices: Sequence[Choice],
    modes: ModeMeasurements | None,
    *,
    noise_variances: Sequence[float],
    likelihoods: Sequence[float],
    fetch_k: int,
    protocol: str,
    grid_steps: int,
    doubt: str | None,
    interrupted: bool,
) -> Calibration:
    """Return the settings that the last choice ended with, and all measurements.

    Args:
        trials: The trials of the search.
        choices: The choice of the learning rate, that of λ', and the others that were made.
        modes: The modes with the chosen settings. None means not measured.
        noise_variances: All values of λ', also those that the surrogate dropped.
        likelihoods: The surrogate of each.
        fetch_k: Number of candidates for a prompt.
        protocol: Protocol of the held-out prompts.
        grid_steps: Number of gradient steps of a full grid.
        doubt: A sentence on what a longer search could gain.
        interrupted: True if an interrupt ended the search.
    """
    best = choices[-1].chosen
    percents, counts = percents_of(trials, best), trials.counts_of(best.config)
    k = chosen_count(trials, choices)
    fewest = counts.index(k)
    rates, *later = choices
    noises, *others = later or [Choice("noise_variance", (), (rates.chosen,), rates.chosen)]
    equal = _equal_noises(trials, noises)
    return Calibration(
        settings=_settings(trials, best, k, modes, fetch_k=fetch_k, protocol=protocol),
        noise_variances=_noise_points(trials, noises, noise_variances, likelihoods),
        learning_rates=tuple(
            RatePoint(setting.config.learning_rate, _compared(trials, setting, rates.chosen))
            for setting in rates.settings
        ),
        counts=tuple(
            CountPoint(count, estimate(percents[:, index], percents[:, fewest]))
            for index, count in enumerate(counts)
        ),
        held_out=len(trials.prompts),
        steps=trials.steps,
        grid_steps=grid_steps,
        notes=(
            *_notes(best, percents[:, fewest], noise_variances, rates, equal),
            *_mode_notes(modes),
            *([doubt] if doubt else []),
            *([_INTERRUPTED] if interrupted else []),
        ),
        others=(
            *(
                ValuePoint(choice.name, label, _compared(trials, setting, choice.chosen))
                for choice in others
                for label, setting in zip(choice.labels, choice.settings, strict=True)
            ),
            *_mode_points(modes),
        ),
        interrupted=interrupted,
    )


def chosen_count(trials: Trials, choices: Sequence[Choice]) -> int:
    """Return the smallest number of documents that is as good as the best."""
    best = choices[-1].chosen
    return trials.counts_of(best.config)[first_sufficient(percents_of(trials, best))]


def estimate(percents: Array, chosen: Array) -> Estimate:
    """Summarize measurements and their differences from the chosen settings.

    Args:
        percents: Percent of the base model's bits, one for each prompt, shape (n,).
        chosen: The same for the chosen settings on the same prompts, shape (n,).
    """
    differences = percents - chosen
    return Estimate(
        percent_of_base=float(percents.mean()),
        standard_error=standard_error(percents),
        difference=float(differences.mean()),
        standard_error_of_difference=standard_error(differences),
        prompts=len(percents),
    )


def _mode_notes(modes: ModeMeasurements | None) -> tuple[str, ...]:
    prompts = 0 if modes is None else len(modes.uncertainties)
    if 0 < prompts < FEWEST_PROMPTS:
        return (f"modes compared on few prompts ({prompts}): the mode may be chosen by chance",)
    return ()


def _mode_points(modes: ModeMeasurements | None) -> tuple[ValuePoint, ...]:
    if modes is None:
        return ()
    chosen = modes.percents[modes.best]
    return tuple(
        ValuePoint("mode", mode, estimate(percents, chosen))
        for mode, percents in modes.percents.items()
    )


def _settings(
    trials: Trials,
    best: Setting,
    k: int,
    modes: ModeMeasurements | None,
    *,
    fetch_k: int,
    protocol: str,
) -> CalibratedSettings:
    config, kernel = best.config, trials.prompts[0].kernel
    tuned = CalibratedFineTuning(
        selection=CalibratedSelection(
            noise_variance=best.noise_variance,
            k=k,
            fetch_k=max(fetch_k, k),
            kernel=kernel.name,
            length_scale=None if kernel.is_linear else kernel.length_scale,
        ),
        learning_rate=config.learning_rate,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        max_length=config.max_length,
        model=trials.engine.language_model.name,
        protocol=protocol,
        seed=config.seed,
        target_modules=config.target_modules,
        objective=config.objective,
        steps_per_document=config.steps_per_document,
        mode=None if modes is None else modes.best,
    )
    table = None if modes is None else modes.table
    if table is not None:
        measured_with = TableSettings.of(asdict(tuned.selection), tuned.model)
        table = replace(table, measured_with=measured_with)
    return CalibratedSettings(fine_tuning=tuned, modes=table)


def _noise_points(
    trials: Trials,
    choice: Choice,
    noise_variances: Sequence[float],
    likelihoods: Sequence[float],
) -> tuple[NoisePoint, ...]:
    measured = {
        setting.noise_variance: _compared(trials, setting, choice.chosen)
        for setting in choice.settings
    }
    return tuple(
        NoisePoint(
            noise_variance=value,
            surrogate=likelihood,
            measured=measured.get(value),
        )
        for value, likelihood in zip(noise_variances, likelihoods, strict=True)
    )


def _compared(trials: Trials, setting: Setting, chosen: Setting) -> Estimate:
    """Compare settings with the chosen ones on the prompts that both were measured on."""
    percents, others = (percents_of(trials, each)[:, -1] for each in (setting, chosen))
    count = min(len(percents), len(others))
    return estimate(percents[:count], others[:count])


def _equal_noises(trials: Trials, noises: Choice) -> list[float]:
    """Return the λ' that choose the documents of the best one, on all prompts it was measured on.

    The best is among them.
    """
    chosen = noises.chosen
    prompts = range(len(percents_of(trials, chosen)))
    return sorted(
        {chosen.noise_variance}
        | {
            setting.noise_variance
            for setting in noises.settings
            if all(trials.trial(n, setting) == trials.trial(n, chosen) for n in prompts)
        }
    )


def _notes(
    best: Setting,
    percents: Array,
    noise_variances: Sequence[float],
    rates: Choice,
    equal: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    if len(equal) > 1:
        notes.append(
            f"λ' = {', '.join(f'{value:g}' for value in equal)} chose the same documents: the "
            "prompts do not tell these values apart"
        )
        noise_variances = ()
    prompts = len(percents)
    tried = [each.config.learning_rate for each in rates.settings if each.config.learning_rate]
    for name, value, values, argument in (
        ("learning rate", best.config.learning_rate, tried, "learning_rates"),
        ("λ'", best.noise_variance, noise_variances, "noise_variances"),
    ):
        for ends, extreme, more in (
            (values[:1], "smallest", "smaller"),
            (values[-1:], "largest", "larger"),
        ):
            if len(values) > 1 and value in ends:
                notes.append(
                    f"the best {name} is the {extreme} tried, {value:g}: {more} ones may be better "
                    f"({argument}= of calibrate in Python)"
                )
    if prompts < FEWEST_PROMPTS:
        notes.append(f"measured on few prompts ({prompts}): the settings may be chosen by chance")
    return (*notes, *gain_notes(percents))


def gain_notes(percents: Array) -> tuple[str, ...]:
    """Return a warning if fine-tuning did not gain, or not more than chance may explain.

    Args:
        percents: Percent of the base model's bits with the chosen settings, shape (n,).
    """
    gain, error = 100 - float(percents.mean()), standard_error(percents)
    degrees = len(percents) - 1
    if gain <= 0:
        return ("fine-tuning made no held-out text likelier on average: do not use it here",)
    if degrees and gain < student_quantile(degrees) * error:
        return (
            f"fine-tuning saved {gain:.1f} ± {error:.1f} % of the base model's bits, which may be "
            "chance: compare it with RAG before you use it",
        )
    return ()
