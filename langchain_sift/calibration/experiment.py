"""Run a calibration: hold out documents, measure the settings and choose the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

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
)
from langchain_sift.calibration.cross_validation import standard_error
from langchain_sift.calibration.halving import Best, halve, percents_of
from langchain_sift.calibration.held_out import CALIBRATION_PROTOCOLS, hold_out
from langchain_sift.calibration.surrogate import promising, surrogate_likelihoods
from langchain_sift.calibration.trials import Trials
from langchain_sift.checks import check_fraction, check_integer, check_positive
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE, Kernel
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine

NOISE_VARIANCES = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-3, 1e1, 9))
LEARNING_RATES = (2.5e-4, 1e-3, 4e-3)


def calibrate(
    vectorstore: VectorStore,
    *,
    model: Any,
    tokenizer: Any = None,
    prompts: int = 24,
    k: int = 32,
    kernel: str = "linear",
    length_scale: float = DEFAULT_LENGTH_SCALE,
    noise_variances: Sequence[float] = NOISE_VARIANCES,
    learning_rates: Sequence[float] = LEARNING_RATES,
    protocol: str = "document",
    fetch_k: int = 200,
    finetune: FineTuneConfig | None = None,
    share: float = 0.1,
    seed: int = 0,
    timeout: float = 300.0,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Calibration:
    """Choose λ', learning rate and number of documents on documents held out of a store.

    Each held-out text is a prompt. The model is never trained on that text, nor on documents with
    the same `source` in their metadata. The store is only read.

    Args:
        vectorstore: Any store that `SIFTRetriever` takes, with embeddings, whose documents can be
            listed.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        tokenizer: Required with a loaded model.
        prompts: Number of documents to hold out.
        k: Maximum number of documents to train on. Powers of two below it are measured as well.
        kernel: Kernel of SIFT, "linear" or "rbf".
        length_scale: ℓ of "rbf".
        noise_variances: Values of λ' to choose from.
        learning_rates: Learning rates to choose from.
        protocol: "document" retrieves with the text and predicts the same text; "continuation"
            retrieves with its first half and predicts the second.
        fetch_k: Number of candidates for a prompt.
        finetune: The other settings of fine-tuning. None means the defaults.
        share: Maximum number of gradient steps, as a fraction of those of a full grid. A
            fine-tuning that has begun is finished, and each round measures at least one prompt.
        seed: Seed of the held-out documents and of the adapter's initial weights.
        timeout: Time limit for reading the store, in seconds.
        on_progress: Called with the phase, the amount of it that is done, and the total.

    Raises:
        ArgumentError: If a number is out of range, or the protocol is unknown.
        CorpusError: If the store has too few documents, or none that can be held out.
        ModelLoadError: If the model cannot be loaded.
        StoreError: If the store does not answer, or its documents cannot be listed.
    """
    noise_variances = _distinct_sorted("noise_variances", noise_variances)
    learning_rates = _distinct_sorted("learning_rates", learning_rates)
    for name, value in (("prompts", prompts), ("k", k), ("fetch_k", fetch_k)):
        check_integer(name, value, 1)
    check_integer("seed", seed, 0)
    check_fraction("share", share)
    checked_kernel = Kernel(kernel, length_scale)
    if protocol not in CALIBRATION_PROTOCOLS:
        raise ArgumentError(
            f"protocol must be one of {', '.join(CALIBRATION_PROTOCOLS)}, got {protocol!r}"
        )
    language_model = (
        model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
    )
    held_out = hold_out(
        vectorstore,
        language_model,
        prompts=prompts,
        protocol=protocol,
        fetch_k=fetch_k,
        seed=seed,
        kernel=checked_kernel,
        timeout=timeout,
        on_prompt=lambda done: on_progress("holding out", done, prompts),
    )
    likelihoods = surrogate_likelihoods(held_out, noise_variances, language_model)
    kept = promising(noise_variances, likelihoods)
    grid_steps = len(noise_variances) * len(learning_rates) * len(held_out) * k
    budget = math.floor(share * grid_steps)
    config = replace(finetune or FineTuneConfig(), seed=seed)
    trials = Trials(
        shared_engine(language_model, config),
        config,
        held_out,
        documents_counts(k),
        on_steps=lambda steps: on_progress("fine-tuning", min(steps, budget), budget),
    )
    best = halve(trials, kept, learning_rates, k=k, budget=budget)
    percents = percents_of(trials, best.noise_variance, best.learning_rate)
    fewest = fewest_documents(percents)
    return Calibration(
        settings=_settings(trials, best, trials.counts[fewest], fetch_k=fetch_k, protocol=protocol),
        noise_variances=_noise_points(trials, best, noise_variances, likelihoods, kept),
        learning_rates=_rate_points(trials, best, learning_rates),
        counts=tuple(
            CountPoint(count, estimate(percents[:, index], percents[:, fewest]))
            for index, count in enumerate(trials.counts)
        ),
        held_out=len(held_out),
        steps=trials.steps,
        grid_steps=grid_steps,
        notes=_notes(best, float(percents[:, fewest].mean()), noise_variances, learning_rates),
    )


def documents_counts(k: int) -> tuple[int, ...]:
    """Return the numbers of documents to measure: the powers of two below k, and k."""
    return (*(1 << power for power in range((k - 1).bit_length())), k)


def fewest_documents(percents: Array) -> int:
    """Return the index of the smallest count of documents that is as good as the best.

    As good means no worse than the best by more than the standard error of the difference, prompt
    by prompt (the one-standard-error rule; Breiman et al., 1984, section 3.4.3).

    Args:
        percents: Shape (prompts, counts), counts ascending.
    """
    best = int(np.argmin(percents.mean(axis=0)))
    for index in range(best):
        differences = percents[:, index] - percents[:, best]
        if differences.mean() <= standard_error(differences):  # False for a single prompt
            return index
    return best


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


def _distinct_sorted(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) == 0:
        raise ArgumentError(f"{name} must be at least one number, got none")
    for value in values:
        check_positive(f"each of {name}", value)
    return tuple(sorted({float(value) for value in values}))


def _settings(
    trials: Trials, best: Best, k: int, *, fetch_k: int, protocol: str
) -> CalibratedSettings:
    config, kernel = trials.config, trials.prompts[0].kernel
    tuned = CalibratedFineTuning(
        selection=CalibratedSelection(
            noise_variance=best.noise_variance,
            k=k,
            fetch_k=max(fetch_k, k),
            kernel=kernel.name,
            length_scale=None if kernel.is_linear else kernel.length_scale,
        ),
        learning_rate=best.learning_rate,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        max_length=config.max_length,
        model=trials.engine.language_model.name,
        protocol=protocol,
        seed=config.seed,
        target_modules=config.target_modules,
    )
    return CalibratedSettings(fine_tuning=tuned)


def _noise_points(
    trials: Trials,
    best: Best,
    noise_variances: Sequence[float],
    likelihoods: Sequence[float],
    kept: Sequence[float],
) -> tuple[NoisePoint, ...]:
    return tuple(
        NoisePoint(
            noise_variance=value,
            surrogate=likelihood,
            distinct_documents=_distinct_documents(trials, value),
            measured=(
                _compared(
                    trials, (value, best.learning_rate), (best.noise_variance, best.learning_rate)
                )
                if value in kept
                else None
            ),
        )
        for value, likelihood in zip(noise_variances, likelihoods, strict=True)
    )


def _rate_points(
    trials: Trials, best: Best, learning_rates: Sequence[float]
) -> tuple[RatePoint, ...]:
    noise_variance = best.noise_variance_of_rates
    return tuple(
        RatePoint(
            rate, _compared(trials, (noise_variance, rate), (noise_variance, best.learning_rate))
        )
        for rate in learning_rates
    )


def _compared(
    trials: Trials, settings: tuple[float, float], chosen: tuple[float, float]
) -> Estimate:
    """Compare two pairs of λ' and learning rate on the prompts that both were measured on."""
    percents, others = (percents_of(trials, *pair)[:, -1] for pair in (settings, chosen))
    count = min(len(percents), len(others))
    return estimate(percents[:count], others[:count])


def _distinct_documents(trials: Trials, noise_variance: float) -> float:
    choices = (trials.documents(prompt, noise_variance) for prompt in range(len(trials.prompts)))
    return float(np.mean([len(set(documents)) for documents in choices]))


def _notes(
    best: Best,
    percent: float,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    for name, value, values in (
        ("learning rate", best.learning_rate, learning_rates),
        ("λ'", best.noise_variance, noise_variances),
    ):
        for end, extreme, more in (
            (values[0], "smallest", "smaller"),
            (values[-1], "largest", "larger"),
        ):
            if len(values) > 1 and value == end:
                notes.append(f"the best {name} is the {extreme} tried, {value:g}: try {more} ones")
    if percent >= 100:
        notes.append("fine-tuning made no held-out text likelier on average: do not use it here")
    return tuple(notes)
