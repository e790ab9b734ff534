"""`langchain-sift learn`: train an adapter on answered questions and their documents."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from langchain_core.documents import Document

from langchain_sift.checks import check_count, check_integer, check_positive
from langchain_sift.cli.adapter_files import check_new, read_template, save_adapter, with_template
from langchain_sift.cli.app import (
    SelectionOptions,
    app,
    echo_for_programs,
    errors_in_one_line,
    finetuning,
    open_store,
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
    LengthScaleOption,
    LoraRankOption,
    ModelOption,
    NoiseVarianceOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
    TargetModulesOption,
    path_option,
)
from langchain_sift.cli.prompts import prompts_of
from langchain_sift.cli.terminal import Terminal
from langchain_sift.errors import ArgumentError, require
from langchain_sift.ttft.model.load_settings import LoadSettings
from langchain_sift.ttft.model.names import join_gguf_file

if TYPE_CHECKING:
    from langchain_sift.comparison.prompts import Prompt
    from langchain_sift.stores.location import ChromaLocation
    from langchain_sift.ttft import LanguageModel

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

K, MAX_LENGTH = 5, 2048
"""Defaults: documents of an example, and tokens of an example with its documents."""

FEW = 50
"""Fewer examples than this are learned twice by default: a second time helped after 24, and not
after 100 (examples/evidence/real_models.md). Nothing between was measured."""


@app.command("learn")
def learn_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    examples: Annotated[
        Path,
        typer.Option(
            parser=path_option,
            metavar="PATH",
            help="Questions with answers, as `compare --prompts` takes them; of several answers "
            "the first is learned. Passages in the file are not read: the model sees the "
            "documents of the store.",
        ),
    ],
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(
            parser=path_option,
            metavar="DIR",
            help="New folder for the adapter, in the format of PEFT.",
        ),
    ],
    gguf_file: GgufFileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="FILE",
            help="Settings file from `calibrate`, for the choice of documents. Other options take "
            "precedence.",
        ),
    ] = None,
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
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Learning rate. Default: the rate at which the first step lowers the loss of its "
            "answer by 0.6 nats per token.",
        ),
    ] = None,
    lora_rank: LoraRankOption = None,
    target_modules: TargetModulesOption = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="FILE",
            help="Chat template (Jinja) for a model without one, or in place of its own. The "
            "adapter keeps it. Default: the model's own.",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of tokens of a question with its documents and its answer; "
            f"longer documents are cut or left out. Default: {MAX_LENGTH}.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of times to learn each example. Default: 2 for fewer than "
            f"{FEW} examples, otherwise 1.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Time limit of the training: at its end, the adapter has learned as much as "
            "there was time for. Default: no limit.",
        ),
    ] = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Teach a chat model to answer from documents, by questions with known answers.

    Trains one adapter, once. The other commands take it as --model, and
    RAG then answers as the examples do. The model itself does not change.
    Ctrl-C ends the training and keeps what was learned; a second Ctrl-C
    writes nothing.
    """
    console = Terminal(stderr=True)
    with errors_in_one_line(console, "; nothing was written"):
        from langchain_sift.stores.location import ChromaLocation

        require("ttft", "torch", "transformers", "peft")
        if epochs is not None:
            check_integer("--epochs", epochs, 1)
        length = MAX_LENGTH if max_length is None else max_length
        config = finetuning(None, "answer", learning_rate, lora_rank, target_modules, length)
        if minutes is not None:
            check_positive("--minutes", minutes)
            config = replace(config, max_train_seconds=60 * minutes)
        prompts = prompts_of(examples)
        answered = _answered(prompts, examples)
        if epochs is None:
            epochs = 2 if len(answered) < FEW else 1
        check_new(out)
        template = None if chat_template is None else read_template(chat_template)
        saved = read_saved(settings)
        selection = selection_options(
            saved,
            k=K if k is None and saved is None else k,
            fetch_k=fetch_k,
            kernel=kernel,
            length_scale=length_scale,
            noise_variance=noise_variance,
        )
        _check_selection(selection)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        loading = LoadSettings(device, dtype)
        # PyTorch takes seconds to load, and mistakes are named before.
        from langchain_sift.cli.adapter_training import train_adapter
        from langchain_sift.cli.learning_summary import print_summary
        from langchain_sift.ttft.training.tasks import STOPPED

        began = time.monotonic()
        documents = _examples(
            answered, location, collection, embeddings, loading, selection, epochs
        )
        language_model = _loaded(join_gguf_file(model, gguf_file), loading, template)
        adapter = train_adapter(language_model, documents, config, console)
        tokenizer = None if template is None else language_model.tokenizer
        shown = save_adapter(adapter, documents, language_model.name, tokenizer, out)
        print_summary(adapter, documents[: len(answered)], len(prompts) - len(answered), epochs)
        typer.echo(f"adapter: {out}; answer with --model {out} --k {shown}")
        echo_for_programs(
            {
                "adapter": str(out),
                "examples": len(answered),
                "epochs": epochs,
                "learned": min(len(answered), len(adapter.training.losses)),
                "steps": len(adapter.training.losses),
                "losses": adapter.training.losses,
                "seconds": round(time.monotonic() - began, 2),
            }
        )
        if adapter.training.ended == STOPPED:
            raise typer.Exit(130)


def _answered(prompts: Sequence[Prompt], file: Path) -> list[Prompt]:
    """Return the questions with an answer in random order.

    Otherwise questions that are alike would follow each other.
    """
    found = [prompt for prompt in prompts if prompt.reference.strip()]
    if not found:
        raise ArgumentError(
            f"{file} has no question with an answer: give each question its answer, as "
            '{"question": ..., "answer": ...} in each line of a .jsonl file'
        )
    return random.Random(0).sample(found, len(found))  # noqa: S311 - no secret


def _check_selection(selection: SelectionOptions) -> None:
    """Check the options of the choice of documents, before anything is loaded."""
    from langchain_sift.selection.settings import SelectionSettings

    fetch_k = selection.get("fetch_k")
    if fetch_k is not None:
        check_count("fetch_k", fetch_k)
    others: Any = {name: value for name, value in selection.items() if name != "fetch_k"}
    SelectionSettings(**others)


def _loaded(name: str, loading: LoadSettings, template: str | None) -> LanguageModel:
    """Load a model whose adapters the other commands can load, and set its chat template."""
    from langchain_sift.ttft import load_language_model

    language_model = load_language_model(name, **asdict(loading))
    if getattr(language_model.model, "quantization_method", None) is not None:
        raise ArgumentError(
            f"{name} is quantized, and no command could load an adapter of it: name the model "
            "that it was quantized from"
        )
    return language_model if template is None else with_template(language_model, template)


def _examples(  # noqa: PLR0917 - the options of a store, in their order
    prompts: Sequence[Prompt],
    location: ChromaLocation,
    collection: str | None,
    embeddings: str | None,
    loading: LoadSettings,
    selection: SelectionOptions,
    epochs: int,
) -> list[Document]:
    """Return the examples with the documents that SIFT chooses; the store is closed again."""
    from langchain_sift.comparison.examples import example_documents
    from langchain_sift.retrievers import SIFTRetriever
    from langchain_sift.stores.locking import locked

    with locked(location.text, exclusive=False):
        vectorstore = open_store(location, collection, embeddings, loading)
        retriever = SIFTRetriever(vectorstore=vectorstore, **selection)
        return example_documents(prompts, retriever, epochs=epochs)
