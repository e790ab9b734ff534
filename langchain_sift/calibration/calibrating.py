"""Which λ', learning rate and number of documents suit these documents and this model?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.calibration.findings import (
    Calibration,
    CountPoint,
    Estimate,
    NoisePoint,
    RatePoint,
)
from langchain_sift.calibration.halving import Chosen, halve, percents_of
from langchain_sift.calibration.held_out import CALIBRATION_PROTOCOLS, hold_out
from langchain_sift.calibration.surrogate import promising, surrogate_likelihoods
from langchain_sift.calibration.trials import Trials
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Array
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
    """Choose λ', learning rate and number of documents on documents held out of the store.

    Each held-out text is a prompt. Neither it nor, where the metadata name a `source`, anything
    of the same source is learned from. The store is only read.

    Args:
        vectorstore: Any that `SIFTRetriever` takes and that can be read through, with embeddings.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        tokenizer: Required with a loaded model.
        prompts: Documents held out.
        k: The most documents to learn from; the fewer ones on the way are measured as well.
        noise_variances: What λ' is chosen from.
        learning_rates: What the learning rate is chosen from.
        protocol: "document" asks with the text and predicts the same text; "continuation" asks
            with its first half and predicts the second.
        fetch_k: Candidates for a prompt.
        finetune: The rest of the recipe.
        share: Of the gradient steps of a full grid, how many may be taken; a fine-tuning that has
            begun is finished, and each round has at least one prompt.
        seed: Which documents are held out, and the adapter's initial weights.
        timeout: Seconds in which the store must have been read through.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        ArgumentError: If a number is out of range, or the protocol is another.
        CorpusError: If the store has too few documents, or none that can be held out.
        ModelLoadError: If there is no such model.
        StoreError: If the store cannot answer, or cannot be read through.
    """
    noise_variances = _checked("noise_variances", noise_variances)
    learning_rates = _checked("learning_rates", learning_rates)
    _check_numbers(prompts=prompts, k=k, fetch_k=fetch_k, share=share, seed=seed)
    if protocol not in CALIBRATION_PROTOCOLS:
        raise ArgumentError(
            f"protocol must be one of {', '.join(CALIBRATION_PROTOCOLS)}, got {protocol!r}"
        )
    recipe = replace(finetune or FineTuneConfig(), seed=seed)
    language_model = (
        model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
    )
    held = hold_out(
        vectorstore,
        language_model,
        prompts=prompts,
        protocol=protocol,
        fetch_k=fetch_k,
        seed=seed,
        timeout=timeout,
        on_prompt=lambda done: on_progress("holding out", done, prompts),
    )
    surrogate = surrogate_likelihoods(held, noise_variances, language_model)
    engine = shared_engine(language_model, recipe)
    trials = Trials(engine, recipe, held, documents_counts(k))
    grid_steps = len(noise_variances) * len(learning_rates) * len(held) * k
    budget = math.floor(share * grid_steps)
    trials.on_trial = lambda: on_progress("fine-tuning", min(trials.steps, budget), budget)
    kept = promising(noise_variances, surrogate)
    chosen = halve(trials, kept, learning_rates, k=k, budget=budget)
    return _report(
        trials,
        chosen,
        noise_variances,
        surrogate,
        kept,
        learning_rates,
        fetch_k=fetch_k,
        protocol=protocol,
        grid_steps=grid_steps,
    )


def documents_counts(k: int) -> tuple[int, ...]:
    """Return the powers of two below k, and k: after so many documents it is measured."""
    return (*(1 << power for power in range((k - 1).bit_length())), k)


def _checked(name: str, values: Sequence[float]) -> tuple[float, ...]:
    found = tuple(sorted({float(value) for value in values}))
    if not found or not all(math.isfinite(value) and value > 0 for value in found):
        raise ArgumentError(f"{name} must be some positive, finite numbers, got {tuple(values)}")
    return found


def _check_numbers(*, share: float, seed: int, **counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} must be an integer of at least 1, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed must be an integer of at least 0, got {seed!r}")
    if not 0 < share <= 1:
        raise ArgumentError(f"share must be above 0 and at most 1, got {share!r}")


def _report(  # noqa: PLR0917 - what `calibrate` has at hand
    trials: Trials,
    chosen: Chosen,
    noise_variances: Sequence[float],
    surrogate: Sequence[float],
    kept: Sequence[float],
    learning_rates: Sequence[float],
    *,
    fetch_k: int,
    protocol: str,
    grid_steps: int,
) -> Calibration:
    best = percents_of(trials, chosen.noise_variance, chosen.learning_rate)
    place = fewest_documents(best)
    compared = chosen.noise_variance_of_rates
    at_rate = percents_of(trials, compared, chosen.learning_rate)

    def measured(noise_variance: float, rate: float, beside: Array) -> Estimate:
        own = percents_of(trials, noise_variance, rate)
        both = min(len(own), len(beside))
        return estimate(own[:both, -1], beside[:both, -1])

    recipe = trials.recipe
    settings = CalibratedSettings(
        noise_variance=chosen.noise_variance,
        learning_rate=chosen.learning_rate,
        k=trials.counts[place],
        fetch_k=max(fetch_k, trials.counts[place]),
        lora_rank=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        max_length=recipe.max_length,
        model=trials.engine.language_model.name,
        protocol=protocol,
        seed=recipe.seed,
    )
    return Calibration(
        settings=settings,
        noise_variances=tuple(
            NoisePoint(
                noise_variance=value,
                surrogate=likelihood,
                distinct_documents=_distinct(trials, value),
                measured=measured(value, chosen.learning_rate, best) if value in kept else None,
            )
            for value, likelihood in zip(noise_variances, surrogate, strict=True)
        ),
        learning_rates=tuple(
            RatePoint(rate, measured(compared, rate, at_rate)) for rate in learning_rates
        ),
        counts=tuple(
            CountPoint(count, estimate(best[:, n], best[:, place]))
            for n, count in enumerate(trials.counts)
        ),
        held_out=len(trials.prompts),
        steps=trials.steps,
        grid_steps=grid_steps,
        notes=_notes(chosen, float(best[:, place].mean()), noise_variances, learning_rates),
    )


def estimate(percents: Array, chosen: Array) -> Estimate:
    """Return what was measured, and the differences prompt by prompt, both of shape (n,)."""
    differences = percents - chosen
    return Estimate(
        percent_of_base=float(percents.mean()),
        standard_error=_standard_error(percents),
        difference=float(differences.mean()),
        standard_error_of_difference=_standard_error(differences),
        prompts=len(percents),
    )


def fewest_documents(percents: Array) -> int:
    """Return which count of documents to take: the first that is as good as the best.

    As good means: no worse by more than the standard error of the difference, prompt by prompt
    (the rule of one standard error; Breiman et al., 1984, section 3.4.3).

    Args:
        percents: Shape (prompts, counts), counts ascending.
    """
    best = int(np.argmin(percents.mean(axis=0)))
    for place in range(best):
        worse = percents[:, place] - percents[:, best]
        if worse.mean() <= _standard_error(worse):  # false for a single prompt
            return place
    return best


def _standard_error(values: Array) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _distinct(trials: Trials, noise_variance: float) -> float:
    choices = [trials.of(n, noise_variance, 1.0).documents for n in range(len(trials.prompts))]
    return float(np.mean([len(set(choice)) for choice in choices]))


def _notes(
    chosen: Chosen,
    percent: float,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    for name, value, values in (
        ("learning rate", chosen.learning_rate, learning_rates),
        ("λ'", chosen.noise_variance, noise_variances),
    ):
        for end, word in ((values[0], "smaller"), (values[-1], "larger")):
            if len(values) > 1 and value == end:
                notes.append(
                    f"the best {name} is the {word[:-1]}st tried, {value:g}: try {word} ones"
                )
    if percent >= 100:
        notes.append("fine-tuning made no held-out text likelier on average: do not use it here")
    return tuple(notes)
