"""Compare methods on prompts: the base model, RAG and test-time fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.vectorstores import VectorStore

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.checks import mapping_or_empty
from langchain_sift.comparison.defaults import Defaults
from langchain_sift.comparison.description import describe, table_notes
from langchain_sift.comparison.judging import Judge
from langchain_sift.comparison.judgments import Labels
from langchain_sift.comparison.leaks import find_leaks, scored_texts, without_leaks
from langchain_sift.comparison.methods import parse_methods, unused_runnables
from langchain_sift.comparison.planner import SHOWN_CHARACTERS, Planner
from langchain_sift.comparison.prompts import Prompt, as_prompts
from langchain_sift.comparison.run_folder import RunFolder
from langchain_sift.comparison.selection import Corpus
from langchain_sift.comparison.settings import (
    Chain,
    ComparisonSettings,
    Retriever,
    Scorer,
    parse_ks,
)
from langchain_sift.comparison.tasks import RETRIEVAL, alike_notes, parse_protocols, unscored_note
from langchain_sift.comparison.units import engine_of, measure_with, peaks_of, run, units_of
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError, require
from langchain_sift.questions.learned_examples import LearnedExamples
from langchain_sift.report.leak_notices import joined
from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row, in_order

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

logger = logging.getLogger(__name__)

# The protocol "retrieval" needs no PyTorch.
# ruff: noqa: PLC0415


def compare(
    prompts: Sequence[Prompt | str],
    methods: Sequence[str] | None = None,
    *,
    model: Any = None,
    vectorstore: VectorStore,
    tokenizer: Any = None,
    protocols: Sequence[str] = ("document",),
    settings: CalibratedSettings | Path | str | None = None,
    k: int | Sequence[int] | None = None,
    fetch_k: int | None = None,
    kernel: str | None = None,
    length_scale: float | None = None,
    noise_variance: float | None = None,
    finetune: FineTuneConfig | None = None,
    retrievers: Mapping[str, Retriever] | None = None,
    chains: Mapping[str, Chain] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    judge: Any = None,
    filter: Mapping[str, object] | None = None,
    label_key: str | None = None,
    max_tokens: int = 32,
    chat_template_kwargs: Mapping[str, object] | None = None,
    leaks: str = "report",
    jobs: int = 8,
    ray: int | None = None,
    max_memory_gb: float | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Report:
    """Measure every method on every prompt: its quality, and its cost.

    Args:
        prompts: Texts or questions that are not in the store.
        methods: "base", which is always measured; "rag:", "ttft:", "both:" (fine-tune, and put the
            documents before the prompt) or "auto:" (one of them for each prompt) followed by a
            selection: "sift", "sift:residual", "sift:exhaustive", "sift:replace" (fine-tuning may
            train on a document again, as in the paper), "nearest", "nearest-repeated",
            "uncertainty", "mmr", "hull", "random", a strategy of pyversity if it is installed
            ("pyversity-dpp", "-mmr", "-msd", "-cover", "-ssd"), or the name of one of
            `retrievers`; or the name of one of `chains`.
            Options of a selection follow it: ":kernel=NAME", ":length_scale=NUMBER",
            ":noise_variance=NUMBER" and ":stopping_alpha=NUMBER"; of "mmr" ":lambda_mult=NUMBER";
            of pyversity's ":diversity=NUMBER". "rag:", "both:" and "auto:" also take
            ":context_k=NUMBER", the maximum number of documents in the prompt. The
            protocol "retrieval" takes selections alone, too ("sift"), and no "base". Default:
            `DEFAULT_METHODS`, or `RETRIEVAL_METHODS` for that protocol.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`. The
            protocol "retrieval" needs none.
        vectorstore: The store with the documents. All of it is read once and searched exactly, so
            that the comparison does not depend on an index.
        tokenizer: The tokenizer of a loaded model.
        protocols: "document" retrieves with the prompt and scores the same text, as in arXiv
            2410.08020; "continuation" retrieves with its first half and scores the second; "qa"
            retrieves with the question, generates an answer greedily, and scores it; "retrieval"
            scores the documents against the `relevant` ones of a prompt (nDCG, recall, MRR and
            hit rate of the first k; α-nDCG and the recall of intents if they are grouped), or, if
            none are known, by whether one of them contains one of its `answers`.
        settings: The settings that `calibrate` chose, or their file: defaults for the next six
            arguments, which take precedence.
        k: Number of documents chosen for a prompt; default 20, for "retrieval" alone 10. Several
            numbers are compared in one run, and cost little more than the largest. Fine-tuning
            takes one step on each document; RAG puts as many different ones before the prompt as
            fit into the model's context, in the order of choice.
        fetch_k: Number of nearest neighbours to choose from; default 200, raised to `k`.
        kernel: Kernel of SIFT, "rbf" or "linear"; default as in `SIFTRetriever`.
        length_scale: ℓ of the kernel "rbf", likewise.
        noise_variance: λ' of SIFT, likewise.
        finetune: The config of fine-tuning; its `max_length` also cuts the documents of RAG.
        retrievers: Your runnables from a query to documents, by name.
        chains: Your runnables from a question, or {"input": question}, to an answer, by name, such
            as RAG with another model; only "qa" can score them.
        scorers: Your metrics, by name: functions from an answer and its `Prompt` to a number.
            More is better, and NaN means no score.
        judge: A LangChain chat model that grades each answer of "qa" in one call with structured
            output: "judged_correct" against `answers`, and "judged_faithful" against the documents
            before the prompt. The report compares its grades with exact match. Its failures stay
            in their rows, and `resume` repeats them; a reply may take ten minutes.
        filter: Filter of the store; other documents take no part.
        label_key: Metadata key of the documents that `relevant` names, such as "source" if it
            names files and the store holds their chunks. Several documents may share a name: the
            first counts as found, and the others as repeats. None means the documents' ids.
        max_tokens: Maximum number of tokens of an answer, reasoning included, which is not scored.
        chat_template_kwargs: Arguments for the model's chat template, such as
            {"enable_thinking": False}.
        leaks: Prompts whose scored text the store holds, exactly or nearly, or whose question the
            model learned (`langchain-sift learn`), are reported ("report"), left out ("exclude"),
            or not searched for ("ignore").
        jobs: Number of prompts to train together; memory grows with it.
        ray: Number of Ray actors that train and answer, each with a copy of the model and, if the
            cluster has GPUs, one of them. None means this process. The cluster is the one that
            `RAY_ADDRESS` names, else this machine. This process chooses documents and writes rows.
        max_memory_gb: Maximum memory of this process, or of each actor, in GB, as in `Limits`:
            batches of fewer than `jobs` prompts are trained if they need less. A prompt that does
            not fit alone fails. None means no limit.
        seed: Seed of the adapters' initial weights and of random choices.
        out: A folder; each row is appended to `results.jsonl` in it when it is measured.
        resume: If True, continue the comparison in `out`, and repeat failed rows.
        overwrite: If True, replace the comparison in `out`.
        on_row: Called with each row; rows of an earlier run come first.

    Returns:
        The rows, and their summaries. If a method fails on a prompt, its row holds the reason, and
        the comparison continues.

    Raises:
        ArgumentError: If a method or protocol does not exist, a number is out of range, a model
            is needed and missing, or `out` cannot be written to, holds files of other origin, is
            in use, or holds a comparison and neither `resume` nor `overwrite` is True. For the
            protocol "retrieval": if no prompt has a label, or the store no relevant document.
        CorpusError: If there are no prompts, or two have the same id.
        ModelLoadError: If the model cannot be loaded, here or by an actor.
        EngineError: If the Ray cluster has no room for an actor, or kills the actors.
        StoreError: If the store cannot be read.
    """
    parsed = parse_protocols(protocols)
    retrievers = mapping_or_empty("retrievers", retrievers)
    chains = mapping_or_empty("chains", chains)
    default = Defaults.of(settings, parsed, model if isinstance(model, str) else None)
    checked = ComparisonSettings(
        methods=parse_methods(
            default.methods if methods is None else methods,
            retrievers=retrievers,
            chains=chains,
            base=set(parsed) != {RETRIEVAL},
        ),
        protocols=parsed,
        ks=parse_ks(default.k if k is None else k),
        fetch_k=default.fetch_k if fetch_k is None else fetch_k,
        **default.kernels(kernel, length_scale, noise_variance),
        finetune=default.tuned(finetune, seed),
        modes=default.modes,
        retrievers=retrievers,
        chains=chains,
        scorers=mapping_or_empty("scorers", scorers),
        judge=None if judge is None else Judge(judge),
        filter=None if filter is None else mapping_or_empty("filter", filter),
        label_key=label_key,
        max_tokens=max_tokens,
        chat_template_kwargs=chat_template_kwargs or {},
        leaks=leaks,
        jobs=jobs,
        ray=ray,
        max_memory_gb=max_memory_gb,
    )
    for note in unused_runnables(checked.methods, checked.retrievers, checked.chains):
        logger.warning(note)
    if not callable(on_row):
        raise ArgumentError(f"on_row must be a function, got a {type(on_row).__name__}")
    if checked.needs_model and model is None:
        raise ArgumentError(f"give a model: only the protocol {RETRIEVAL!r} needs none")
    checked_prompts = as_prompts(prompts)
    folder = None if out is None else RunFolder(out, resume=resume, overwrite=overwrite)
    with nullcontext() if folder is None else folder.held():
        return run_comparison(
            checked_prompts,
            checked,
            language_model=_language_model(model, tokenizer) if checked.needs_model else None,
            vectorstore=vectorstore,
            folder=folder,
            on_row=on_row,
        )


def run_comparison(
    prompts: Sequence[Prompt],
    settings: ComparisonSettings,
    *,
    language_model: LanguageModel | None,
    vectorstore: VectorStore,
    folder: RunFolder | None,
    on_row: Callable[[Row], None],
) -> Report:
    """Do as `compare` does, with checked arguments.

    Args:
        prompts: The prompts.
        settings: The settings of the comparison.
        language_model: The model. None if no protocol needs one.
        vectorstore: The store with the documents.
        folder: The folder for the rows. None means that they are not written.
        on_row: Called with each row.

    Raises:
        ArgumentError: If the folder holds a comparison with other settings, every prompt leaks
            and leaks are excluded, no prompt has a label for the protocol "retrieval", or the
            store has none of the relevant documents.
        EngineError: If the Ray cluster has no room for an actor, or kills the actors.
        StoreError: If the store cannot be read.
    """
    corpus = Corpus.read(vectorstore, settings.filter, label_key=settings.label_key)
    all_prompts = prompts
    leaks: dict[str, str] = {}
    if settings.needs_model and settings.leaks != "ignore":
        leaks = find_leaks(scored_texts(prompts, settings.protocols), corpus.texts())
        learned = None if language_model is None else LearnedExamples.read(language_model.name)
        if learned is not None:
            leaks = joined(leaks, learned.leaks({p.id: p.text for p in prompts}))
    if settings.leaks == "exclude":
        prompts = without_leaks(prompts, leaks)
    labels = Labels.of(prompts, corpus) if RETRIEVAL in settings.protocols else Labels()
    described = describe(
        settings,
        language_model=language_model,
        corpus=corpus,
        prompts=all_prompts,
        notes=(
            *labels.notes,
            *unscored_note(all_prompts, settings.protocols),
            *alike_notes(all_prompts),
            *table_notes(settings, corpus.embeddings, language_model),
        ),
    )
    prompt_texts = {prompt.id: prompt.text[:SHOWN_CHARACTERS] for prompt in prompts}
    references = {prompt.id: prompt.reference for prompt in prompts if prompt.reference}
    if folder is not None:
        folder.begin(described)
        folder.describe(prompt_texts, references, leaks, labels.relevant)
    planner = Planner(corpus, settings, labels)
    engine = engine_of(settings, language_model)
    measure = measure_with(settings, language_model, engine)
    rows = run(planner, units_of(prompts, settings, labels), measure, folder, on_row)
    order = {prompt.id: index for index, prompt in enumerate(prompts)}
    names = [method.name for method in settings.methods]
    return Report(
        rows=tuple(in_order(rows, settings.protocols, order, names)),
        settings=described,
        texts=dict(planner.texts if folder is None else folder.texts),
        prompt_texts=prompt_texts,
        references=references,
        leaks=leaks,
        relevant=labels.relevant,
        memory={} if engine is None else peaks_of(engine),
    )


def _language_model(model: Any, tokenizer: Any) -> LanguageModel:
    """Load a model, unless it is loaded already.

    Raises:
        MissingExtraError: If PyTorch or transformers is not installed.
        ModelLoadError: If it cannot be loaded.
    """
    require("compare", "torch", "transformers")
    from langchain_sift.ttft import LanguageModel, load_language_model

    return model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
