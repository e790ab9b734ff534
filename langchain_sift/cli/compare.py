"""`langchain-sift compare`: compare methods on prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    finetuning,
    names_of,
    note_other_model,
    print_note,
    progress_bar,
    read_saved,
    with_gguf_file,
)
from langchain_sift.cli.compare_options import (
    ChainOption,
    ChatTemplateKwargsOption,
    ComparedEmbeddingsOption,
    ComparedModelOption,
    ComparedStoreOption,
    CorpusOption,
    FailIfOption,
    JobsOption,
    JudgeOption,
    KsOption,
    LeaksOption,
    MaxTokensOption,
    MethodsOption,
    OutOption,
    OverwriteOption,
    PromptsOption,
    ProtocolOption,
    QrelsOption,
    RayOption,
    ResumeOption,
    RetrieverOption,
    ScorerOption,
    SeedOption,
    import_named,
    json_object,
    judge_of,
    numbers,
)
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    FetchKOption,
    GgufFileOption,
    KernelOption,
    LabelKeyOption,
    LearningRateOption,
    LengthScaleOption,
    LoraRankOption,
    MaxLengthOption,
    MaxMemoryOption,
    NoiseVarianceOption,
    ObjectiveOption,
    QuantizationOption,
    SettingsOption,
    StoreHeaderOption,
    StoreTokenOption,
    TargetModulesOption,
)
from langchain_sift.cli.prompts import prompts_of
from langchain_sift.cli.sources import CorpusSource, StoreSource, source_of
from langchain_sift.cli.terminal import Terminal
from langchain_sift.errors import ArgumentError, require
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_sift.comparison.prompts import Prompt
    from langchain_sift.comparison.run_folder import RunFolder
    from langchain_sift.comparison.settings import ComparisonSettings
    from langchain_sift.report.conditions import Condition
    from langchain_sift.report.rows import Row

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("compare")
def compare_command(  # noqa: PLR0917 - every argument is an option of the command
    prompts: PromptsOption,
    out: OutOption,
    qrels: QrelsOption = None,
    label_key: LabelKeyOption = None,
    model: ComparedModelOption = None,
    gguf_file: GgufFileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store: ComparedStoreOption = None,
    collection: CollectionOption = None,
    corpus: CorpusOption = None,
    embeddings: ComparedEmbeddingsOption = None,
    leaks: LeaksOption = "report",
    methods: MethodsOption = None,
    protocol: ProtocolOption = "document",
    settings: SettingsOption = None,
    k: KsOption = None,
    fetch_k: FetchKOption = None,
    kernel: KernelOption = None,
    length_scale: LengthScaleOption = None,
    noise_variance: NoiseVarianceOption = None,
    max_tokens: MaxTokensOption = 32,
    chat_template_kwargs: ChatTemplateKwargsOption = None,
    retriever: RetrieverOption = None,
    chain: ChainOption = None,
    scorer: ScorerOption = None,
    judge: JudgeOption = None,
    objective: ObjectiveOption = None,
    learning_rate: LearningRateOption = None,
    lora_rank: LoraRankOption = None,
    target_modules: TargetModulesOption = None,
    max_length: MaxLengthOption = None,
    jobs: JobsOption = 8,
    ray: RayOption = None,
    max_memory_gb: MaxMemoryOption = None,
    seed: SeedOption = 0,
    fail_if: FailIfOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Compare retrieval methods, RAG and test-time fine-tuning on your documents and prompts.

    Exit code 1 means that a condition of --fail-if holds, or that no row of a
    method has a result.
    """
    console = Terminal(stderr=True)
    with errors_in_one_line(console):
        from langchain_sift.comparison.defaults import Defaults
        from langchain_sift.comparison.methods import parse_methods, unused_runnables
        from langchain_sift.comparison.run_folder import RunFolder
        from langchain_sift.comparison.settings import ComparisonSettings, parse_ks
        from langchain_sift.comparison.tasks import RETRIEVAL, parse_protocols

        model = with_gguf_file(model, gguf_file)
        saved, loading = read_saved(settings), LoadSettings(device, dtype, quantization)
        source = source_of(
            store, store_token, store_header, collection, corpus, embeddings, loading
        )
        protocols = parse_protocols(names_of(protocol))
        default = Defaults.of(saved, protocols, model)
        tuned = finetuning(saved, objective, learning_rate, lora_rank, target_modules, max_length)
        retrievers, chains = import_named(retriever), import_named(chain)
        checked = ComparisonSettings(
            methods=parse_methods(
                default.methods if methods is None else names_of(methods),
                retrievers=retrievers,
                chains=chains,
                base=set(protocols) != {RETRIEVAL},
            ),
            protocols=protocols,
            ks=parse_ks(default.k if k is None else numbers(k)),
            fetch_k=default.fetch_k if fetch_k is None else fetch_k,
            **default.kernels(kernel, length_scale, noise_variance),
            finetune=replace(tuned, seed=seed),
            modes=default.modes,
            retrievers=retrievers,
            chains=chains,
            scorers=import_named(scorer),
            judge=judge_of(judge),
            label_key=label_key,
            max_tokens=max_tokens,
            chat_template_kwargs=json_object("--chat-template-kwargs", chat_template_kwargs),
            leaks=leaks,
            jobs=jobs,
            ray=ray,
            max_memory_gb=max_memory_gb,
        )
        for note in unused_runnables(checked.methods, retrievers, chains):
            print_note(console, note)
        conditions = checked.conditions(fail_if or ())
        model = _model_name(model, saved, console) if checked.needs_model else model
        checked_prompts = prompts_of(prompts, lines="qa" in protocols, qrels=qrels)
        inputs = [Path(path) for path in (prompts, corpus, qrels, settings) if path is not None]
        folder = RunFolder(out, resume=resume, overwrite=overwrite, inputs=inputs)
        _run(
            checked_prompts,
            checked,
            conditions,
            model=model,
            loading=loading,
            source=source,
            folder=folder,
            console=console,
        )


def _exit_if_any(failed: Sequence[str], console: Terminal) -> None:
    for failure in failed:
        console.print(Text.assemble(("failed:", "bold red"), f" {failure}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _run(
    prompts: Sequence[Prompt],
    settings: ComparisonSettings,
    conditions: Sequence[Condition],
    *,
    model: str | None,
    loading: LoadSettings,
    source: StoreSource | CorpusSource,
    folder: RunFolder,
    console: Terminal,
) -> None:
    """Run the comparison, print its report, and exit if a condition holds."""
    from langchain_sift.cli.tables import print_report
    from langchain_sift.comparison.experiment import run_comparison
    from langchain_sift.report.files import write_report

    language_model = None
    with _held(folder):
        with source.locked(), progress_bar(console) as progress:
            source.check()  # a model takes longer to load than a store to be found
            if model is not None:
                require("compare", "torch", "transformers")
                from langchain_sift.ttft import load_language_model

                waiting = progress.add_task("loading the model", total=1)
                language_model = load_language_model(model, **asdict(loading))
                progress.advance(waiting)
            waiting = progress.add_task("opening the documents", total=1)
            vectorstore = source.open(language_model, folder.path, progress)
            progress.advance(waiting)
            comparing = progress.add_task(
                "comparing", total=len(prompts) * settings.rows_per_prompt
            )
            report = run_comparison(
                prompts,
                settings,
                language_model=language_model if settings.needs_model else None,
                vectorstore=vectorstore,
                folder=folder,
                on_row=lambda row: progress.update(
                    comparing, advance=1, description=f"{row.protocol}, {row.method}"
                ),
            )
            progress.update(comparing, total=len(report.rows), description="done")
        failed = [failure for condition in conditions for failure in condition.failures(report)]
        failed += _without_result(report.rows)
        print_report(write_report(report, folder.path), failed)
    _exit_if_any(failed, console)


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Lock the folder; an interrupt says that rows are kept, if there are any."""
    try:
        with folder.held():
            yield
    except KeyboardInterrupt:
        kept = f"; continue with --resume: the rows so far are in {folder.path}"
        raise KeyboardInterrupt(kept if folder.rows else "") from None


def _without_result(rows: Sequence[Row]) -> list[str]:
    """Return a sentence on each method that failed on all prompts, or one on all methods."""
    by_method: dict[str, list[str | None]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row.failure)
    failed = {method: reasons[0] for method, reasons in by_method.items() if all(reasons)}
    if failed and len(failed) == len(by_method):
        return [f"no row has a result; the first reason: {rows[0].failure}"]
    return [
        f"no row of {method} has a result; the first reason: {reason}"
        for method, reason in failed.items()
    ]


def _model_name(option: str | None, saved: CalibratedSettings | None, console: Terminal) -> str:
    """Return the name of the model; print a note if the settings belong to another model."""
    if option is None:
        if saved is None or saved.model is None:
            raise ArgumentError(
                "give --model, a causal model of the hub or a folder, or --settings that name one"
            )
        return saved.model
    note_other_model(saved, option, console)
    return option
