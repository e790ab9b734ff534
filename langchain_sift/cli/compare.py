"""`langchain-sift compare`: compare methods. `langchain-sift report`: write the report again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    finetune_config,
    names_of,
    open_store,
    progress_bar,
    read_saved,
)
from langchain_sift.cli.options import (
    ChainOption,
    CollectionOption,
    ComparedEmbeddingsOption,
    ComparedModelOption,
    ComparedStoreOption,
    CorpusOption,
    FetchKOption,
    JobsOption,
    KsOption,
    LeaksOption,
    LearningRateOption,
    LoraRankOption,
    MaxLengthOption,
    MaxTokensOption,
    MethodsOption,
    NoiseVarianceOption,
    OutOption,
    OverwriteOption,
    PromptsOption,
    ProtocolOption,
    RayOption,
    ResumeOption,
    RetrieverOption,
    ScorerOption,
    SeedOption,
    SettingsOption,
    StoreHeaderOption,
    StoreTokenOption,
)
from langchain_sift.cli.tables import print_report
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_chroma import Chroma

    from langchain_sift.comparison.prompts import Prompt
    from langchain_sift.comparison.run_folder import RunFolder
    from langchain_sift.comparison.settings import ComparisonSettings
    from langchain_sift.stores.location import ChromaLocation
    from langchain_sift.ttft import LanguageModel

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@dataclass(frozen=True, slots=True)
class _Store:
    """A collection that exists."""

    where: ChromaLocation
    collection: str | None
    embeddings: str | None

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder for reading."""
        from langchain_sift.stores.locking import locked

        return locked(self.where.text, exclusive=False)

    def open(self, model: LanguageModel, out: Path, progress: Progress) -> Chroma:  # noqa: ARG002
        return open_store(self.where, self.collection, self.embeddings)


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Files to index first, into a store in the folder of the comparison."""

    path: Path
    embeddings: str | None

    def locked(self) -> AbstractContextManager[None]:
        return nullcontext()

    def open(self, model: LanguageModel, out: Path, progress: Progress) -> Chroma:
        """Index the files and open their collection."""
        from langchain_sift.indexing import index_documents, read_corpus
        from langchain_sift.indexing.named_objects import load_embeddings

        documents = read_corpus(self.path)
        indexing = progress.add_task("embedding documents", total=len(documents))
        return index_documents(
            documents,
            model if self.embeddings is None else load_embeddings(self.embeddings),
            out / "chroma",
            on_progress=lambda done: progress.update(indexing, completed=done),
        )


@app.command("compare")
def compare_command(  # noqa: PLR0917 - every argument is an option of the command
    prompts: PromptsOption,
    out: OutOption,
    model: ComparedModelOption = None,
    store: ComparedStoreOption = None,
    collection: CollectionOption = None,
    corpus: CorpusOption = None,
    embeddings: ComparedEmbeddingsOption = None,
    leaks: LeaksOption = "report",
    methods: MethodsOption = "base,rag:nearest,rag:sift,ttft:nearest,ttft:sift",
    protocol: ProtocolOption = "document",
    settings: SettingsOption = None,
    k: KsOption = None,
    fetch_k: FetchKOption = None,
    noise_variance: NoiseVarianceOption = None,
    max_tokens: MaxTokensOption = 32,
    retriever: RetrieverOption = None,
    chain: ChainOption = None,
    scorer: ScorerOption = None,
    learning_rate: LearningRateOption = None,
    lora_rank: LoraRankOption = None,
    max_length: MaxLengthOption = None,
    jobs: JobsOption = 8,
    ray: RayOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Compare the base model, RAG and test-time fine-tuning on your documents and prompts."""
    console = Console(stderr=True)
    with errors_in_one_line(console, f"; continue with --resume: the rows so far are in {out}"):
        from langchain_sift.comparison.methods import parse_methods
        from langchain_sift.comparison.prompts import read_prompts
        from langchain_sift.comparison.run_folder import RunFolder
        from langchain_sift.comparison.settings import ComparisonSettings, Defaults, parse_ks
        from langchain_sift.comparison.tasks import parse_protocols

        # All mistakes in the arguments are reported before the work begins.
        saved = read_saved(settings)
        source = _source(
            _location(store, store_token, store_header), collection, corpus, embeddings
        )
        model_name = _model_name(model, saved, console)
        default = Defaults.of(saved)
        finetune = finetune_config(
            saved, learning_rate=learning_rate, lora_rank=lora_rank, max_length=max_length
        )
        retrievers, chains = _import_named(retriever), _import_named(chain)
        checked = ComparisonSettings(
            methods=parse_methods(names_of(methods), retrievers=retrievers, chains=chains),
            protocols=parse_protocols(names_of(protocol)),
            ks=parse_ks(default.k if k is None else _numbers(k)),
            fetch_k=default.fetch_k if fetch_k is None else fetch_k,
            noise_variance=default.noise_variance if noise_variance is None else noise_variance,
            finetune=replace(finetune, seed=seed),
            retrievers=retrievers,
            chains=chains,
            scorers=_import_named(scorer),
            max_tokens=max_tokens,
            leaks=leaks,
            jobs=jobs,
            ray=ray,
        )
        checked_prompts = read_prompts(prompts, lines="qa" in checked.protocols)
        folder = RunFolder(out, resume=resume, overwrite=overwrite)
        _run(
            checked_prompts,
            checked,
            model=model_name,
            source=source,
            folder=folder,
            console=console,
        )


@app.command("report")
def report_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a comparison, complete or not.")
    ],
) -> None:
    """Write the report of a comparison again, from the rows in its folder."""
    with errors_in_one_line(Console(stderr=True)):
        from langchain_sift.comparison.run_folder import read_report
        from langchain_sift.report.files import write_report

        print_report(write_report(read_report(folder), folder))


def _run(
    prompts: Sequence[Prompt],
    settings: ComparisonSettings,
    *,
    model: str,
    source: _Store | _Corpus,
    folder: RunFolder,
    console: Console,
) -> None:
    from langchain_sift.comparison.experiment import run_comparison
    from langchain_sift.report.files import write_report
    from langchain_sift.ttft import load_language_model

    language_model = load_language_model(model)
    with source.locked(), progress_bar(console) as progress:
        vectorstore = source.open(language_model, folder.path, progress)
        comparing = progress.add_task("comparing", total=len(prompts) * settings.rows_per_prompt)
        report = run_comparison(
            prompts,
            settings,
            language_model=language_model,
            vectorstore=vectorstore,
            folder=folder,
            on_row=lambda row: progress.update(
                comparing, advance=1, description=f"{row.protocol}, {row.method}"
            ),
        )
        progress.update(comparing, total=len(report.rows), description="done")
    print_report(write_report(report, folder.path))


def _location(
    store: str | None, token: str | None, headers: Sequence[str] | None
) -> ChromaLocation | None:
    from langchain_sift.stores.location import ChromaLocation

    if store is None and (token is not None or headers):
        raise ArgumentError("--store-token and --store-header need --store, the URL of a server")
    return None if store is None else ChromaLocation.of(store, token=token, headers=headers or ())


def _source(
    store: ChromaLocation | None,
    collection: str | None,
    corpus: Path | None,
    embeddings: str | None,
) -> _Store | _Corpus:
    if store is not None and corpus is None:
        return _Store(store, collection, embeddings)
    if corpus is not None and store is None:
        return _Corpus(corpus, embeddings)
    raise ArgumentError(
        "give either --store, an indexed collection, or --corpus, files to index first"
    )


def _model_name(option: str | None, saved: CalibratedSettings | None, console: Console) -> str:
    """Return the name of the model; print a note if the settings belong to another model."""
    if option is None:
        if saved is None:
            raise ArgumentError(
                "give --model, a causal model of the hub or a folder, or --settings that name one"
            )
        return saved.model
    if saved is not None and option != saved.model:
        console.print(
            f"note: the settings were calibrated with {saved.model}: another model may need others",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return option


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in names_of(text))
    except ValueError:
        raise ArgumentError(
            f"--k takes a number of documents, or several separated by commas, got {text!r}"
        ) from None


def _import_named(options: Sequence[str] | None) -> dict[str, Any]:
    """Import the objects of options NAME=module:OBJECT, by their names."""
    from langchain_sift.indexing.named_objects import import_object

    objects = {}
    for option in options or ():
        name, equals, path = option.partition("=")
        if not equals or ":" not in path:
            raise ArgumentError(f"{option!r} is not NAME=module:OBJECT")
        objects[name.strip()] = import_object(path)
    return objects
