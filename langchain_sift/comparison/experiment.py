"""Base model, retrieval-augmented generation or test-time fine-tuning: which serves better?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibrated_settings import CalibratedSettings, read_settings
from langchain_sift.comparison.leaks import find_leaks
from langchain_sift.comparison.measurement import Asker, Scorer
from langchain_sift.comparison.methods import parse_methods
from langchain_sift.comparison.prompts import Prompt, as_prompts
from langchain_sift.comparison.run_folder import RunFolder, make_folder, refuse_present
from langchain_sift.comparison.selection import Corpus
from langchain_sift.comparison.tasks import PROTOCOLS, Task, named_protocols
from langchain_sift.comparison.units import (
    SHOWN_CHARACTERS,
    Comparison,
    here,
    on_ray,
    run,
    units_of,
)
from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, CHAIN, Row, in_order
from langchain_sift.retrieval.settings import noise_variance_for
from langchain_sift.selection.arguments import check_arguments
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine
from langchain_sift.ttft.digests import digest_of

DEFAULT_METHODS = (BASE, "rag:nearest", "rag:sift", "ttft:nearest", "ttft:sift")
LEAKS = ("report", "exclude", "ignore")
_GATHER_SECONDS = 0.2  # enough for all of a unit to be trained together, on a busy machine as well


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
    retrievers: Mapping[str, Runnable[str, list[Document]]] | None = None,
    chains: Mapping[str, Runnable[Any, Any]] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    filter: Mapping[str, Any] | None = None,
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
    """Measure every method on every prompt: how well it predicts or answers, and what it costs.

    Args:
        prompts: Texts or questions that are not in the store.
        methods: "base", which is always measured; "rag:", "ttft:" or "both:" (fine-tuned, and
            the documents before the prompt) followed by a way to choose: "sift",
            "sift:residual", "sift:exhaustive", "nearest", "nearest-repeated", "uncertainty",
            "mmr", "hull", "random", or the name of one of `retrievers`; or the name of one of
            `chains`. Behind it may stand ":noise_variance=NUMBER" and ":stopping_alpha=NUMBER".
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        vectorstore: Where the documents are. All of it is read once, and candidates are found
            exactly, so that what is compared does not depend on an index.
        tokenizer: Required with a loaded model.
        protocols: "document" retrieves with the prompt and scores the same text, as in arXiv
            2410.08020; "continuation" retrieves with its first half and scores the second; "qa"
            retrieves with the question, generates an answer greedily, and scores it.
        settings: What `calibrate` chose, or the file that it was written to: stands for the next
            four arguments where they are not given.
        k: Documents chosen for a prompt, by default 20; several numbers are compared in one run,
            and cost little more than the largest. Fine-tuning takes a step on each; RAG puts as
            many different ones before the prompt as fit the model's context, in order.
        fetch_k: Nearest neighbours they are chosen from, by default 200; raised to `k`.
        noise_variance: λ' of SIFT; by default as in `SIFTRetriever`.
        finetune: How the model learns; its `max_length` also cuts the documents of RAG.
        retrievers: Runnables of yours from a query to documents.
        chains: Runnables of yours from a question to an answer, such as RAG with another model;
            only "qa" can score them.
        scorers: Metrics of yours: functions from an answer and its `Prompt` to a number, where
            more is better, and NaN is no score.
        filter: Which documents of the store take part.
        max_tokens: Of an answer.
        leaks: Whether prompts whose scored text the store holds, exactly or nearly, are
            reported ("report"), left out ("exclude"), or not looked for ("ignore").
        jobs: Prompts that are trained together, and their largest number in memory.
        ray: Ray actors that train and answer, each with the model and, where the cluster has
            GPUs, one of them; None: this process does. The cluster is the one that `RAY_ADDRESS`
            names, else this machine. Documents are chosen, and rows written, by this process.
        seed: Of the adapters' initial weights and of random choices.
        out: A folder: rows are appended to `results.jsonl` in it as they come.
        resume: Whether to go on with the comparison in `out`; what failed in it is tried again.
        overwrite: Whether to replace it.
        on_row: Called with each row, those that were there already first.

    Returns:
        The rows, and their summaries. A method that fails on a prompt leaves a row with the
        reason, and the comparison goes on.

    Raises:
        ArgumentError: If a method or protocol is unknown, a number is out of range, or `out`
            cannot be written to, or holds a comparison and neither `resume` nor `overwrite` is
            asked for.
        CorpusError: If there are no prompts, or two of the same id.
        ModelLoadError: If there is no such model, here or where an actor looks for it.
        EngineError: If the Ray cluster has no room for an actor, or kills them.
        StoreError: If the store cannot be read.
    """
    out = None if out is None else Path(out)
    if out is not None:
        refuse_present(out, resume=resume, overwrite=overwrite)
    chosen = {"noise_variance": noise_variance_for(vectorstore.embeddings)} | _given_or_saved(
        settings, k=k, fetch_k=fetch_k, noise_variance=noise_variance, finetune=finetune
    )
    ks, noise_variance = _checked_ks(chosen["k"]), chosen["noise_variance"]
    check_arguments(max(ks), noise_variance, None)
    _check_words(leaks, jobs, max_tokens, ray)
    checked = named_protocols(protocols)
    parsed = parse_methods(methods, retrievers=retrievers or {}, chains=chains or {})
    if any(method.mode == CHAIN for method in parsed) and set(checked) != {"qa"}:
        raise ArgumentError('chains give answers, which only the protocol "qa" scores')
    asked = as_prompts(prompts)
    fetch_k = max(chosen["fetch_k"], *ks)
    recipe = replace(chosen["finetune"], seed=seed)
    if out is not None:
        make_folder(out)
    language_model = _language_model(model, tokenizer)
    corpus = Corpus.read(vectorstore, **({} if filter is None else {"filter": dict(filter)}))
    found = {} if leaks == "ignore" else _leaks(asked, checked, corpus)
    told = {
        "methods": [method.name for method in parsed],
        "protocols": list(checked),
        "k": list(ks),
        "fetch_k": fetch_k,
        "noise_variance": noise_variance,
        "model": language_model.name,
        "max_tokens": max_tokens,
        "leaks": leaks,
        "jobs": jobs,
        "filter": None if filter is None else dict(filter),
        "documents": _fingerprint(zip(corpus.ids, _texts(corpus), strict=True)),
        "vectors": _fingerprint(_vectors(corpus)),
        "prompts": _fingerprint((repr(prompt),) for prompt in asked),
        "retrievers": sorted(retrievers or ()),
        "chains": sorted(chains or ()),
        "scorers": sorted(scorers or ()),
        **asdict(recipe),
    }
    if leaks == "exclude":
        asked = [prompt for prompt in asked if prompt.id not in found]
        if not asked:
            raise ArgumentError(
                f"the store holds the scored text of all {len(found)} prompts: none is left"
            )
    comparison = Comparison(
        corpus=corpus,
        ks=ks,
        fetch_k=fetch_k,
        noise_variance=noise_variance,
        seed=seed,
        retrievers=retrievers or {},
        chains=chains or {},
    )
    folder = None if out is None else RunFolder(out, told, resume=resume, overwrite=overwrite)
    prompt_texts = {prompt.id: prompt.text[:SHOWN_CHARACTERS] for prompt in asked}
    if folder is not None:
        folder.describe(prompt_texts, found)
    asking: dict[str, Any] = {
        "recipe": recipe,
        "max_tokens": max_tokens,
        "scorers": dict(scorers or {}),
    }
    limits = _limits(recipe, jobs, ks)
    if ray is None:
        measure = partial(here, Asker(shared_engine(language_model, recipe, limits), **asking))
    else:
        measure = partial(on_ray, ray, language_model, limits, asking)
    rows = run(comparison, units_of(asked, checked, parsed, jobs), measure, folder, on_row)
    order = {prompt.id: place for place, prompt in enumerate(asked)}
    return Report(
        rows=tuple(in_order(rows, checked, order, [method.name for method in parsed])),
        settings=told,
        texts=dict(comparison.texts if folder is None else folder.texts),
        prompt_texts=prompt_texts,
        leaks=found,
    )


def _given_or_saved(
    settings: CalibratedSettings | Path | str | None, **given: Any
) -> dict[str, Any]:
    """Return what was given; else what was saved; else the defaults."""
    defaults = {"k": 20, "fetch_k": 200, "finetune": FineTuneConfig()}
    saved = {}
    if settings is not None:
        found = read_settings(settings)
        saved = {name: getattr(found, name) for name in ("k", "fetch_k", "noise_variance")}
        saved["finetune"] = found.finetune_config()
    return {**defaults, **saved, **{n: value for n, value in given.items() if value is not None}}


def _checked_ks(k: int | Sequence[int]) -> tuple[int, ...]:
    ks = (k,) if isinstance(k, int) else tuple(sorted(set(k)))
    if not ks:
        raise ArgumentError("k must be a number of documents, or several, got none")
    for one in ks:
        check_arguments(one, 1.0, None)
    return ks


def _check_words(leaks: str, jobs: int, max_tokens: int, ray: int | None) -> None:
    if leaks not in LEAKS:
        raise ArgumentError(f"leaks must be one of {', '.join(LEAKS)}, got {leaks!r}")
    for name, value in {"jobs": jobs, "max_tokens": max_tokens, "ray": ray}.items():
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value}")


def _language_model(model: Any, tokenizer: Any) -> LanguageModel:
    if isinstance(model, LanguageModel):
        return model
    return load_language_model(model, tokenizer)


def _limits(recipe: FineTuneConfig, jobs: int, ks: Sequence[int]) -> Limits:
    """Return limits under which nothing that is handed in together is refused."""
    requests = jobs * len(ks)
    tokens = requests * max(ks) * recipe.max_length * recipe.steps_per_document
    usual = Limits()
    return Limits(
        max_batch_size=jobs,
        gather_seconds=_GATHER_SECONDS,
        max_requests=max(usual.max_requests, requests),
        max_tokens=max(usual.max_tokens, tokens),
    )


def _texts(corpus: Corpus) -> Iterator[str]:
    return (document.page_content for document in corpus.candidates.documents)


def _vectors(corpus: Corpus) -> Iterator[tuple[str, str]]:
    # As stores keep them: how a unit vector's last digits are rounded differs between machines.
    rows = corpus.candidates.embeddings
    hashes = (sha256(row.astype(np.float32).tobytes()).hexdigest() for row in rows)
    return zip(corpus.ids, hashes, strict=True)


def _fingerprint(texts: Any) -> str:
    return digest_of(part for parts in sorted(texts) for part in parts)[:16]


def _leaks(prompts: Sequence[Prompt], protocols: Sequence[str], corpus: Corpus) -> dict[str, str]:
    """Return of which prompts the store holds what is scored, or asked."""
    scored = {}
    for prompt in prompts:
        tasks = [task for name in protocols if (task := _task(prompt, name)) is not None]
        # An answer of a few words is in many documents, and should be.
        texts = [prompt.text if task.asks else task.target or "" for task in tasks]
        scored[prompt.id] = min(texts, key=len, default="")
    return find_leaks(scored, zip(corpus.ids, _texts(corpus), strict=True))


def _task(prompt: Prompt, protocol: str) -> Task | None:
    try:
        return PROTOCOLS[protocol](prompt)
    except ArgumentError:  # told in its rows
        return None
