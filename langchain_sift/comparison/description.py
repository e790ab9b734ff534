"""Describe a comparison as plain values: a run with others is another comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from langchain_sift.auto_mode import AUTO, TableSettings
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.selection import Corpus, kernel_of
from langchain_sift.comparison.settings import ComparisonSettings
from langchain_sift.retrieval.defaults import kernel_settings
from langchain_sift.ttft.texts import digest_of

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel


def describe(
    settings: ComparisonSettings,
    *,
    language_model: LanguageModel | None,
    corpus: Corpus,
    prompts: Sequence[Prompt],
    notes: Sequence[str],
) -> dict[str, object]:
    """Return the settings of a comparison, with fingerprints of its documents and prompts.

    Args:
        settings: The settings.
        language_model: The model. None if no protocol needs one.
        corpus: The documents.
        prompts: The prompts, also those that are left out.
        notes: Sentences for the reader of the report.
    """
    return {
        **_described(settings),
        **_kernels(settings, corpus.embeddings),
        **_described_model(settings, language_model),
        **_fingerprints(corpus, prompts),
        **_runnables(settings),
        **({"notes": list(notes)} if notes else {}),
    }


def table_notes(
    settings: ComparisonSettings, embeddings: object, language_model: LanguageModel | None
) -> tuple[str, ...]:
    """Return a note on each method of the mode "auto" whose settings are not those of its table."""
    measured_with = None if settings.modes is None else settings.modes.measured_with
    if measured_with is None or language_model is None:
        return ()
    notes = []
    for method in settings.methods:
        if method.mode != AUTO:
            continue
        kernel = kernel_of(method, embeddings, settings.kernel_of(for_training=True))
        for k in settings.ks:
            chosen = {**asdict(kernel), "k": k}
            used = TableSettings.of(chosen, language_model.name, method.context_k)
            if note := measured_with.note_on(used):
                notes.append(f"{method.name}: {note}.")
    return tuple(notes)


def _described(settings: ComparisonSettings) -> dict[str, object]:
    return {
        "methods": [method.name for method in settings.methods],
        "protocols": list(settings.protocols),
        "k": list(settings.ks),
        "fetch_k": settings.fetch_k,
        "filter": None if settings.filter is None else dict(settings.filter),
        "label_key": settings.label_key,
        **_modes(settings),
    }


def _modes(settings: ComparisonSettings) -> dict[str, object]:
    """Return the table of modes, if a method chooses among them."""
    if settings.modes is None or all(method.mode != AUTO for method in settings.methods):
        return {}
    return {"modes": asdict(settings.modes)}


def _kernels(settings: ComparisonSettings, embeddings: object) -> dict[str, object]:
    """Return the kernel and λ' of the methods that set none."""
    retrieval, training = (
        kernel_settings(embeddings, **settings.kernel_of(for_training=for_training))
        for for_training in (False, True)
    )
    if retrieval == training or not any(method.fine_tunes for method in settings.methods):
        return asdict(retrieval)
    of_training = {f"training_{name}": value for name, value in asdict(training).items()}
    return {**asdict(retrieval), **of_training}


def _described_model(
    settings: ComparisonSettings, language_model: LanguageModel | None
) -> dict[str, object]:
    """Return the settings of the language model; of retrieval alone, the seed."""
    if language_model is None:
        return {"seed": settings.finetune.seed}
    arguments = settings.chat_template_kwargs
    return {
        "model": language_model.name,
        "max_tokens": settings.max_tokens,
        **({"chat_template_kwargs": dict(arguments)} if arguments else {}),
        "leaks": settings.leaks,
        "jobs": settings.jobs,
        **asdict(settings.finetune),
        **_adapted_layers(settings, language_model),
    }


def _adapted_layers(
    settings: ComparisonSettings, language_model: LanguageModel
) -> dict[str, list[str]]:
    """Return the layers that get an adapter, and the weights that cannot."""
    if not any(method.fine_tunes for method in settings.methods):
        return {}
    # A comparison of retrieval alone does not wait for PyTorch.
    from langchain_sift.ttft.training.adapted_model import (  # noqa: PLC0415
        layers_to_adapt,
        share_weights,
    )
    from langchain_sift.ttft.training.target_layers import patterns  # noqa: PLC0415

    modules = share_weights(language_model.model)
    targets, _ = layers_to_adapt(modules, settings.finetune.target_modules)
    return {"layers": list(patterns(targets.names)), "left_out": list(patterns(targets.left_out))}


def _runnables(settings: ComparisonSettings) -> dict[str, object]:
    return {
        "retrievers": sorted(settings.retrievers),
        "chains": sorted(settings.chains),
        "scorers": sorted(settings.scorers),
        **({} if settings.judge is None else {"judge": settings.judge.name}),
    }


def _fingerprints(corpus: Corpus, prompts: Sequence[Prompt]) -> dict[str, str]:
    # In float32, as stores hold vectors: the last digits of a unit vector differ between machines.
    rows = corpus.candidates.embeddings
    hashes = (sha256(row.astype(np.float32).tobytes()).hexdigest() for row in rows)
    return {
        "documents": _fingerprint(corpus.texts()),
        "vectors": _fingerprint(zip(corpus.ids, hashes, strict=True)),
        "prompts": _fingerprint((repr(prompt),) for prompt in prompts),
    }


def _fingerprint(entries: Iterable[tuple[str, ...]]) -> str:
    return digest_of(part for entry in sorted(entries) for part in entry)[:16]
