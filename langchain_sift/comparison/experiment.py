"""Compare methods on prompts: the base model, RAG and test-time fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.comparison.leaks import find_leaks, scored_texts
from langchain_sift.comparison.measurement import MeasurementSettings, Measurer
from langchain_sift.comparison.methods import parse_methods
from langchain_sift.comparison.prompts import Prompt, as_prompts
from langchain_sift.comparison.run_folder import RunFolder
from langchain_sift.comparison.selection import Corpus
from langchain_sift.comparison.settings import (
    Chain,
    ComparisonSettings,
    Defaults,
    Retriever,
    Scorer,
    parse_ks,
)
from langchain_sift.comparison.tasks import parse_protocols
from langchain_sift.comparison.units import (
    SHOWN_CHARACTERS,
    Measure,
    Planner,
    measure_here,
    measure_on_ray,
    run,
    units_of,
)
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row, in_order
from langchain_sift.retrieval.settings import noise_variance_for
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine
from langchain_sift.ttft.digests import digest_of

DEFAULT_METHODS = (BASE, "rag:nearest", "rag:sift", "ttft:nearest", "ttft:sift")


def compare(
    prompts: Sequence[Prompt | str],
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    model: Any,
    vectorstore: VectorStore,
    tokenizer: Any = None,
    protocols: Sequence[str] = ("document",),
    settings: CalibratedSettings | Path | str | None = None,
    k: int | Sequence[int] | None = None,
    fetch_k: int | None = None,
    noise_variance: float | None = None,
    finetune: FineTuneConfig | None = None,
    retrievers: Mapping[str, Retriever] | None = None,
    chains: Mapping[str, Chain] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    filter: Mapping[str, object] | None = None,
    max_tokens: int = 32,
    leaks: str = "report",
    jobs: int = 8,
    ray: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Report:
    """Measure every method on every prompt: its quality, and its cost.

    Args:
        prompts: Texts or questions that are not in the store.
        methods: "base", which is always measured; "rag:", "ttft:" or "both:" (fine-tune, and put
            the documents before the prompt) followed by a selection: "sift", "sift:residual",
            "sift:exhaustive", "nearest", "nearest-repeated", "uncertainty", "mmr", "hull",
            "random", or the name of one of `retrievers`; or the name of one of `chains`. Options
            of a selection follow it: ":noise_variance=NUMBER" and ":stopping_alpha=NUMBER".
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        vectorstore: The store with the documents. All of it is read once and searched exactly, so
            that the comparison does not depend on an index.
        tokenizer: The tokenizer of a loaded model.
        protocols: "document" retrieves with the prompt and scores the same text, as in arXiv
            2410.08020; "continuation" retrieves with its first half and scores the second; "qa"
            retrieves with the question, generates an answer greedily, and scores it.
        settings: The settings that `calibrate` chose, or their file: defaults for the next four
            arguments, which take precedence.
        k: Number of documents chosen for a prompt; default 20. Several numbers are compared in
            one run, and cost little more than the largest. Fine-tuning takes one step on each
            document; RAG puts as many different ones before the prompt as fit into the model's
            context, in the order of choice.
        fetch_k: Number of nearest neighbours to choose from; default 200, raised to `k`.
        noise_variance: λ' of SIFT; default as in `SIFTRetriever`.
        finetune: The config of fine-tuning; its `max_length` also cuts the documents of RAG.
        retrievers: Your runnables from a query to documents, by name.
        chains: Your runnables from a question to an answer, by name, such as RAG with another
            model; only "qa" can score them.
        scorers: Your metrics, by name: functions from an answer and its `Prompt` to a number.
            More is better, and NaN means no score.
        filter: Filter of the store; other documents take no part.
        max_tokens: Maximum number of tokens of an answer.
        leaks: Prompts whose scored text the store holds, exactly or nearly, are reported
            ("report"), left out ("exclude"), or not searched for ("ignore").
        jobs: Number of prompts to train together; memory grows with it.
        ray: Number of Ray actors that train and answer, each with a copy of the model and, if the
            cluster has GPUs, one of them. None means this process. The cluster is the one that
            `RAY_ADDRESS` names, else this machine. This process chooses documents and writes rows.
        seed: Seed of the adapters' initial weights and of random choices.
        out: A folder; each row is appended to `results.jsonl` in it when it is measured.
        resume: If True, continue the comparison in `out`, and repeat failed rows.
        overwrite: If True, replace the comparison in `out`.
        on_row: Called with each row; rows of an earlier run come first.

    Returns:
        The rows, and their summaries. If a method fails on a prompt, its row holds the reason, and
        the comparison continues.

    Raises:
        ArgumentError: If a method or protocol does not exist, a number is out of range, or `out`
            cannot be written to, or holds a comparison and neither `resume` nor `overwrite` is
            True.
        CorpusError: If there are no prompts, or two have the same id.
        ModelLoadError: If the model cannot be loaded, here or by an actor.
        EngineError: If the Ray cluster has no room for an actor, or kills the actors.
        StoreError: If the store cannot be read.
    """
    default = Defaults.of(settings)
    checked = ComparisonSettings(
        methods=parse_methods(methods, retrievers=retrievers or {}, chains=chains or {}),
        protocols=parse_protocols(protocols),
        ks=parse_ks(default.k if k is None else k),
        fetch_k=default.fetch_k if fetch_k is None else fetch_k,
        noise_variance=default.noise_variance if noise_variance is None else noise_variance,
        finetune=replace(default.finetune if finetune is None else finetune, seed=seed),
        retrievers=retrievers or {},
        chains=chains or {},
        scorers=scorers or {},
        filter=filter,
        max_tokens=max_tokens,
        leaks=leaks,
        jobs=jobs,
        ray=ray,
    )
    checked_prompts = as_prompts(prompts)
    folder = None if out is None else RunFolder(Path(out), resume=resume, overwrite=overwrite)
    if not isinstance(model, LanguageModel):
        model = load_language_model(model, tokenizer)
    return run_comparison(
        checked_prompts,
        checked,
        language_model=model,
        vectorstore=vectorstore,
        folder=folder,
        on_row=on_row,
    )


def run_comparison(
    prompts: Sequence[Prompt],
    settings: ComparisonSettings,
    *,
    language_model: LanguageModel,
    vectorstore: VectorStore,
    folder: RunFolder | None,
    on_row: Callable[[Row], None],
) -> Report:
    """Do as `compare` does, with checked arguments.

    Raises:
        ArgumentError: If the folder holds a comparison with other settings, or every prompt leaks
            and leaks are excluded.
        EngineError: If the Ray cluster has no room for an actor, or kills the actors.
        StoreError: If the store cannot be read.
    """
    noise_variance = settings.noise_variance
    if noise_variance is None:
        noise_variance = noise_variance_for(vectorstore.embeddings)
    corpus = Corpus.read(vectorstore, settings.filter)
    leaks: dict[str, str] = {}
    if settings.leaks != "ignore":
        leaks = find_leaks(scored_texts(prompts, settings.protocols), _texts(corpus))
    described = {
        **_described(settings, language_model.name, noise_variance),
        **_fingerprints(corpus, prompts),
        **_runnables(settings),
        **asdict(settings.finetune),
    }
    if settings.leaks == "exclude":
        prompts = _without_leaks(prompts, leaks)
    prompt_texts = {prompt.id: prompt.text[:SHOWN_CHARACTERS] for prompt in prompts}
    if folder is not None:
        folder.begin(described)
        folder.describe(prompt_texts, leaks)
    planner = Planner(corpus, settings, noise_variance)
    measure = _measure(settings, language_model)
    rows = run(planner, units_of(prompts, settings), measure, folder, on_row)
    order = {prompt.id: index for index, prompt in enumerate(prompts)}
    names = [method.name for method in settings.methods]
    return Report(
        rows=tuple(in_order(rows, settings.protocols, order, names)),
        settings=described,
        texts=dict(planner.texts if folder is None else folder.texts),
        prompt_texts=prompt_texts,
        leaks=leaks,
    )


def _measure(settings: ComparisonSettings, language_model: LanguageModel) -> Measure:
    """Return the function that measures units, here or on Ray."""
    shared = MeasurementSettings(settings.finetune, settings.max_tokens, dict(settings.scorers))
    if settings.ray is not None:
        return partial(measure_on_ray, settings.ray, language_model, settings.limits(), shared)
    engine = shared_engine(language_model, settings.finetune, settings.limits())
    return partial(measure_here, Measurer(engine, shared))


def _without_leaks(prompts: Sequence[Prompt], leaks: Mapping[str, str]) -> list[Prompt]:
    kept = [prompt for prompt in prompts if prompt.id not in leaks]
    if not kept:
        raise ArgumentError(
            f"the store holds the scored text of all {len(leaks)} prompts: none is left"
        )
    return kept


def _described(
    settings: ComparisonSettings, model: str, noise_variance: float
) -> dict[str, object]:
    """Return the settings as plain values: a run with other ones is another comparison."""
    return {
        "methods": [method.name for method in settings.methods],
        "protocols": list(settings.protocols),
        "k": list(settings.ks),
        "fetch_k": settings.fetch_k,
        "noise_variance": noise_variance,
        "model": model,
        "max_tokens": settings.max_tokens,
        "leaks": settings.leaks,
        "jobs": settings.jobs,
        "filter": None if settings.filter is None else dict(settings.filter),
    }


def _runnables(settings: ComparisonSettings) -> dict[str, list[str]]:
    return {
        "retrievers": sorted(settings.retrievers),
        "chains": sorted(settings.chains),
        "scorers": sorted(settings.scorers),
    }


def _fingerprints(corpus: Corpus, prompts: Sequence[Prompt]) -> dict[str, str]:
    # In float32, as stores hold vectors: the last digits of a unit vector differ between machines.
    rows = corpus.candidates.embeddings
    hashes = (sha256(row.astype(np.float32).tobytes()).hexdigest() for row in rows)
    return {
        "documents": _fingerprint(_texts(corpus)),
        "vectors": _fingerprint(zip(corpus.ids, hashes, strict=True)),
        "prompts": _fingerprint((repr(prompt),) for prompt in prompts),
    }


def _fingerprint(entries: Iterable[tuple[str, ...]]) -> str:
    return digest_of(part for entry in sorted(entries) for part in entry)[:16]


def _texts(corpus: Corpus) -> Iterator[tuple[str, str]]:
    documents = corpus.candidates.documents
    return zip(corpus.ids, (document.page_content for document in documents), strict=True)
