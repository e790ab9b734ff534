"""`langchain-sift learn`: learn answered questions with their documents into an adapter."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from langchain_core.documents import Document
from rich.console import Console

from langchain_sift.checks import check_positive
from langchain_sift.cli.app import (
    app,
    echo_for_programs,
    errors_in_one_line,
    finetuning,
    open_store,
    progress_bar,
    read_saved,
    selection_options,
)
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    FetchKOption,
    GgufFileOption,
    KernelOption,
    LearningRateOption,
    LengthScaleOption,
    LoraRankOption,
    ModelOption,
    NoiseVarianceOption,
    QuantizationOption,
    SettingsOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
    TargetModulesOption,
)
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError, require
from langchain_sift.ttft.model.load_settings import LoadSettings
from langchain_sift.ttft.model.names import join_gguf_file

if TYPE_CHECKING:
    from langchain_sift.comparison.prompts import Prompt
    from langchain_sift.retrievers import SIFTRetriever
    from langchain_sift.ttft import LanguageModel, TrainedAdapter
    from langchain_sift.ttft.requests import Event

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

K, MAX_LENGTH = 5, 2048
"""Default number of documents of an example, and of its tokens with them."""


@app.command("learn")
def learn_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    examples: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Questions with answers, as `compare --prompts` takes them. Those without an "
            "answer are left out.",
        ),
    ],
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="New folder for the adapter, in the format of PEFT."),
    ],
    gguf_file: GgufFileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    settings: SettingsOption = None,
    k: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of documents to show with each question: as many as RAG will show. "
            f"Default: that of --settings, or {K}.",
        ),
    ] = None,
    fetch_k: FetchKOption = None,
    kernel: KernelOption = None,
    length_scale: LengthScaleOption = None,
    noise_variance: NoiseVarianceOption = None,
    learning_rate: LearningRateOption = None,
    lora_rank: LoraRankOption = None,
    target_modules: TargetModulesOption = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of tokens of a question with its documents and its answer; "
            f"documents beyond it are left out. Default: {MAX_LENGTH}.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Time limit of the training: at its end, the adapter has learned as many "
            "examples as there was time for. Default: no limit.",
        ),
    ] = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Teach a chat model to answer from documents, by questions with known answers.

    Trains one adapter, once. The other commands take it as --model, and
    RAG then answers as the examples do. The model itself does not change.
    """
    console = Console(stderr=True)
    with errors_in_one_line(console, "; nothing was written"):
        from langchain_sift.comparison.prompts import read_prompts
        from langchain_sift.retrievers import SIFTRetriever
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        require("ttft", "torch", "transformers", "peft")
        from langchain_sift.ttft import load_language_model

        saved = read_saved(settings)
        length = MAX_LENGTH if max_length is None else max_length
        config = finetuning(None, "answer", learning_rate, lora_rank, target_modules, length)
        if minutes is not None:
            check_positive("--minutes", minutes)
            config = replace(config, max_train_seconds=60 * minutes)
        prompts = read_prompts(examples, lines=True)
        answered = _answered(prompts, examples)
        _check_new(out)
        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        selection = selection_options(
            saved,
            k=K if k is None and saved is None else k,
            fetch_k=fetch_k,
            kernel=kernel,
            length_scale=length_scale,
            noise_variance=noise_variance,
        )
        began = time.monotonic()
        with locked(location.text, exclusive=False):
            vectorstore = open_store(location, collection, embeddings, loading)
            retriever = SIFTRetriever(vectorstore=vectorstore, **selection)
            # In random order, so that alike questions do not follow each other.
            shuffled = random.Random(0).sample(answered, len(answered))  # noqa: S311 - no secret
            documents = example_documents(shuffled, retriever)
        name = join_gguf_file(model, gguf_file)
        if Path(name).exists():  # the adapter names its model, wherever it is loaded
            name = str(Path(name).absolute())
        adapter = _trained(load_language_model(name, **asdict(loading)), documents, config, console)
        adapter.save(out)
        counts = {
            "examples": len(documents),
            "without_answer": len(prompts) - len(answered),
            "answer_in_documents": sum(map(_has_answer, documents)),
        }
        _print(adapter, out, counts, time.monotonic() - began)


def example_documents(prompts: Sequence[Prompt], retriever: SIFTRetriever) -> list[Document]:
    """Return a document of each question, with its answer and what the retriever finds for it."""
    chosen = retriever.batch([prompt.text for prompt in prompts])
    return [
        Document(
            prompt.text,
            metadata={
                "question": prompt.text,
                "answer": prompt.reference,
                "context": [document.page_content for document in documents],
            },
        )
        for prompt, documents in zip(prompts, chosen, strict=True)
    ]


def _answered(prompts: Sequence[Prompt], file: Path) -> list[Prompt]:
    found = [prompt for prompt in prompts if prompt.reference.strip()]
    if not found:
        raise ArgumentError(
            f"{file} has no question with an answer: give each question its answer, as "
            '{"question": ..., "answer": ...} in each line of a .jsonl file'
        )
    return found


def _check_new(out: Path) -> None:
    """Check that a folder does not exist yet, and make the folder that it will be in."""
    if out.exists():
        raise ArgumentError(f"{out} already exists: name another folder, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"{out} cannot be written: {error.strerror}") from error


def _trained(
    language_model: LanguageModel,
    documents: Sequence[Document],
    config: FineTuneConfig,
    console: Console,
) -> TrainedAdapter:
    """Return an adapter that was trained on the documents, and show the progress."""
    from langchain_sift.language_models.objectives.training_material import training_material
    from langchain_sift.ttft import Outcome, Step, shared_engine

    material = training_material(documents, config, language_model)
    engine = shared_engine(language_model, config)
    request = engine.request(
        material.texts, config=replace(config, on_failure="raise"), keep_adapter=True
    )
    with progress_bar(console) as progress:
        learning = progress.add_task("learning", total=config.steps_per_document * len(documents))

        def shown() -> Iterator[Event]:
            for event in engine.submit(request):
                if isinstance(event, Step):
                    progress.update(learning, completed=event.number)
                yield event

        return next(event for event in shown() if isinstance(event, Outcome)).trained()


def _has_answer(example: Document) -> bool:
    """Return whether the documents of an example contain its answer."""
    from langchain_sift.report.metrics import contains_answer

    shown = "\n\n".join(example.metadata["context"])
    return contains_answer(shown, [example.metadata["answer"]]) > 0


def _print(adapter: TrainedAdapter, out: Path, counts: Mapping[str, int], seconds: float) -> None:
    losses = adapter.training.losses
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    typer.echo(
        f"learned {len(losses)} of {counts['examples']} examples in {seconds:.0f} s; mean loss of "
        f"the first tenth {first:.2f}, of the last {last:.2f} nats per token of the answers"
    )
    typer.echo(f"examples whose documents contain the answer: {counts['answer_in_documents']}")
    if counts["without_answer"]:
        typer.echo(f"questions without an answer, left out: {counts['without_answer']}")
    typer.echo(f"adapter: {out}")
    echo_for_programs(
        {"adapter": str(out), **counts, "losses": losses, "seconds": round(seconds, 2)}
    )
