"""Run a calibration: hold out documents, measure the settings and choose the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibration.calibration import Calibration
from langchain_sift.calibration.conclusion import chosen_count, conclude
from langchain_sift.calibration.cross_validation import documents_counts
from langchain_sift.calibration.halving import percents_of
from langchain_sift.calibration.held_out import (
    CALIBRATION_PROTOCOLS,
    HeldOut,
    hold_out,
    hold_out_questions,
    with_answers,
)
from langchain_sift.calibration.mode_trials import measure_modes
from langchain_sift.calibration.search import (
    Choice,
    TimeBudget,
    search_within_minutes,
    search_within_steps,
    uncertainty,
)
from langchain_sift.calibration.surrogate import promising, surrogate_likelihoods
from langchain_sift.calibration.trials import Trials
from langchain_sift.checks import check_fraction, check_integer, check_positive
from langchain_sift.comparison.prompts import Prompt, as_prompts
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.retrieval.defaults import kernel_settings
from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE, Kernel
from langchain_sift.stores.embedding_calls import embeddings_of
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine

NOISE_VARIANCES = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-2, 1e2, 9))
LEARNING_RATES = (2.5e-4, 1e-3, 4e-3)


def calibrate(
    vectorstore: VectorStore,
    *,
    model: Any,
    tokenizer: Any = None,
    questions: Sequence[Prompt] | None = None,
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
    minutes: float | None = None,
    seed: int = 0,
    timeout: float = 300.0,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Calibration:
    """Choose λ', learning rate and number of documents on documents held out of a store.

    Each held-out text is a prompt. The model is never trained on that text, nor on documents with
    the same `source` in their metadata. The store is only read.

    An interrupt (Ctrl-C) ends the search, and the settings that were chosen until then are
    returned. Before the learning rate is chosen, the interrupt is raised.

    Args:
        vectorstore: Any store that `SIFTRetriever` takes, with embeddings, whose documents can be
            listed.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        tokenizer: Required with a loaded model.
        questions: Questions with `answers` or a `correct` choice, to calibrate on in place of
            held-out documents: the model is fine-tuned for the question, and predicts the first
            answer, or the correct choice. None means documents.
        prompts: Maximum number of documents to hold out, or of questions; a random sample.
        k: Maximum number of documents to train on; no more than there are candidates. Powers of
            two below it are measured as well.
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
        minutes: Time limit of the search, in place of `share`. The search then also extends the
            range of learning rates and compares the best with the default. It compares the
            objectives that the documents fit ("answer" if all are questions with answers or
            conversations, "distill" on questions), one and two steps on each document, the layers
            with adapters, and ranks, as far as the time goes. The rest of the time compares the
            modes "base", "rag", "ttft" and "both" with the chosen settings. The settings then name
            the best mode and, with five prompts or more, have a table for the mode "auto". A
            fine-tuning that has begun is finished.
        seed: Seed of the held-out documents or questions, and of the adapter's initial weights.
        timeout: Time limit for sampling the store, in seconds. Each search of it has 30 s.
        on_progress: Called with the phase, the amount of it that is done, and the total.

    Raises:
        ArgumentError: If a number is out of range, the protocol is unknown, no question has an
            answer, or `minutes` is too short to measure each learning rate and λ' once.
        CorpusError: If the store has too few documents, or none that can be held out, or two
            questions have the same id.
        ModelLoadError: If the model cannot be loaded.
        StoreError: If the store does not answer, or its documents cannot be listed.
    """
    questions = as_prompts(questions) if questions else questions
    noise_variances = _distinct_sorted("noise_variances", noise_variances)
    learning_rates = _distinct_sorted("learning_rates", learning_rates)
    check_search(questions, prompts, k, protocol=protocol, share=share, minutes=minutes, seed=seed)
    check_integer("fetch_k", fetch_k, 1)
    checked_kernel = Kernel(kernel, length_scale)
    language_model = (
        model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
    )
    held_out = _held_out(
        vectorstore,
        language_model,
        questions,
        prompts=prompts,
        protocol=protocol,
        fetch_k=fetch_k,
        seed=seed,
        kernel=checked_kernel,
        timeout=timeout,
        on_progress=on_progress,
    )
    k = min(k, max(len(prompt.documents) for prompt in held_out))
    likelihoods = surrogate_likelihoods(held_out, noise_variances, language_model)
    kept = _nearest_first(promising(noise_variances, likelihoods), vectorstore, kernel)
    grid_steps = len(noise_variances) * len(learning_rates) * len(held_out) * k
    budget = math.floor(share * grid_steps)
    config = replace(finetune or FineTuneConfig(), seed=seed)
    trials = Trials(shared_engine(language_model, config), held_out, documents_counts(k))
    timed = None if minutes is None else TimeBudget(minutes, trials)
    trials.on_trial = lambda: on_progress("fine-tuning", *_progress(trials, timed, budget))
    choices: list[Choice] = []
    modes, interrupted = None, False
    try:
        choices.extend(
            search_within_steps(trials, config, kept, learning_rates, budget=budget)
            if timed is None
            else search_within_minutes(trials, config, kept, learning_rates, budget=timed)
        )
        if timed is not None:
            count, steps = chosen_count(trials, choices), timed.steps()
            modes = measure_modes(trials, choices[-1].chosen, count, steps=steps)
    except KeyboardInterrupt:
        if not choices or len(percents_of(trials, choices[-1].chosen)) == 0:
            raise
        interrupted = True
    finally:
        trials.keep_engine(None)
    return conclude(
        trials,
        choices,
        modes,
        noise_variances=noise_variances,
        likelihoods=likelihoods,
        fetch_k=fetch_k,
        protocol="qa" if questions is not None else protocol,
        grid_steps=grid_steps,
        doubt=uncertainty(trials, choices, timed),
        interrupted=interrupted,
    )


def check_search(
    questions: Sequence[Prompt] | None,
    prompts: int,
    k: int,
    *,
    protocol: str,
    share: float,
    minutes: float | None,
    seed: int,
) -> None:
    """Check arguments of `calibrate`; this needs neither the store nor the model.

    Raises:
        ArgumentError: If a number is out of range, the protocol is unknown, or no question has an
            answer.
    """
    check_integer("prompts", prompts, 1)
    check_integer("k", k, 1)
    check_integer("seed", seed, 0)
    check_fraction("share", share)
    check_positive("minutes", minutes, optional=True)
    if protocol not in CALIBRATION_PROTOCOLS:
        raise ArgumentError(
            f"protocol must be one of {', '.join(CALIBRATION_PROTOCOLS)}, got {protocol!r}"
        )
    if questions is not None:
        with_answers(questions)


def _progress(trials: Trials, timed: TimeBudget | None, budget: int) -> tuple[int, int]:
    """Return the gradient steps so far and their number, or the seconds and their limit."""
    if timed is None:
        return min(trials.steps, budget), budget
    return timed.seconds_used, round(timed.seconds)


def _held_out(
    vectorstore: VectorStore,
    language_model: LanguageModel,
    questions: Sequence[Prompt] | None,
    *,
    prompts: int,
    protocol: str,
    fetch_k: int,
    seed: int,
    kernel: Kernel,
    timeout: float,
    on_progress: Callable[[str, int, int], None],
) -> list[HeldOut]:
    """Return the prompts to predict: questions, or documents of the store."""
    if questions is None:
        return hold_out(
            vectorstore,
            language_model,
            prompts=prompts,
            protocol=protocol,
            fetch_k=fetch_k,
            seed=seed,
            kernel=kernel,
            timeout=timeout,
            on_prompt=lambda done: on_progress("holding out", done, prompts),
        )
    return hold_out_questions(
        vectorstore,
        questions,
        language_model,
        prompts=prompts,
        fetch_k=fetch_k,
        seed=seed,
        kernel=kernel,
        on_prompt=lambda done: on_progress("reading questions", done, min(prompts, len(questions))),
    )


def _nearest_first(
    noise_variances: Sequence[float], vectorstore: VectorStore, kernel: str
) -> list[float]:
    """Return the λ', that nearest to the default first: of equally good ones it is chosen."""
    default = kernel_settings(embeddings_of(vectorstore), kernel=kernel).noise_variance
    return sorted(noise_variances, key=lambda value: abs(math.log(value / default)))


def _distinct_sorted(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) == 0:
        raise ArgumentError(f"{name} must be at least one number, got none")
    for value in values:
        check_positive(f"each of {name}", value)
    return tuple(sorted({float(value) for value in values}))
