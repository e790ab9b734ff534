"""The application, and the functions that its commands share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

from langchain_sift import __version__
from langchain_sift.errors import require

require("compare", "typer", "rich")

import typer  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text  # noqa: E402

from langchain_sift.auto_mode import ModeTable, TableSettings  # noqa: E402
from langchain_sift.calibrated_settings import CalibratedSettings  # noqa: E402
from langchain_sift.checks import check_choice, parse_target_modules  # noqa: E402
from langchain_sift.cli.terminal import Terminal, to_json  # noqa: E402
from langchain_sift.config import OBJECTIVES, FineTuneConfig  # noqa: E402
from langchain_sift.errors import ArgumentError, SIFTError  # noqa: E402
from langchain_sift.ttft.model.load_settings import LoadSettings  # noqa: E402
from langchain_sift.ttft.model.names import join_gguf_file  # noqa: E402
from langchain_sift.ttft.threads import prepare_threads  # noqa: E402

if TYPE_CHECKING:
    from langchain_chroma import Chroma

    from langchain_sift.serving import ServingSettings
    from langchain_sift.stores.location import ChromaLocation

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

app = typer.Typer(
    help="SIFT retrieval and test-time fine-tuning of local models, on your documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def prepare(
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of threads that compute. Default: OMP_NUM_THREADS, or the number of cores "
            "that other processes leave free when the command starts.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Set the number of threads before PyTorch and NumPy are loaded."""
    with errors_in_one_line(Terminal(stderr=True)):
        prepare_threads(threads)


class SelectionOptions(TypedDict, total=False):
    """The options of a selection that are set."""

    k: int
    fetch_k: int
    kernel: str
    length_scale: float
    noise_variance: float


@contextmanager
def errors_in_one_line(console: Terminal, after_interrupt: str = "") -> Iterator[None]:
    """Print an error in one line, without a traceback, and exit with code 2.

    Args:
        console: The console to print to.
        after_interrupt: The rest of the line that is printed after an interrupt (code 130).
    """
    logging.basicConfig(level=logging.ERROR)
    # The bars of the hub and of transformers, which read this when they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bar of GGUF files
    try:
        yield
    except SIFTError as error:
        # The terminal wraps a long line: a name that is broken in two cannot be copied.
        console.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        rest = str(interrupt) or after_interrupt
        console.print(f"interrupted{rest}", soft_wrap=True)
        raise typer.Exit(130) from None


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise an `ArgumentError` that names the path, if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise ArgumentError(f"{path} cannot be written: {error.strerror or error}") from error


def echo_for_programs(result: Mapping[str, object]) -> None:
    """Print a result as one line of JSON, except to a terminal, which shows its tables."""
    if not sys.stdout.isatty():
        typer.echo(to_json(result))


def names_of(text: str) -> list[str]:
    """Return the names in a comma-separated list; without any, the text in quotes as one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names or [f'"{text}"']  # for the error that lists what exists


def read_saved(path: Path | None) -> CalibratedSettings | None:
    """Return the settings in a file of `calibrate`; None without a file."""
    return None if path is None else CalibratedSettings.load(path)


def note_other_model(saved: CalibratedSettings | None, model: str, console: Terminal) -> None:
    """Print a note if settings were calibrated with another model."""
    if saved is not None and saved.model not in {None, model}:
        print_note(
            console,
            f"the settings were calibrated with {saved.model}: another model may need others",
        )


def note_other_settings(
    saved: CalibratedSettings | None,
    selection: Mapping[str, object],
    served: ServingSettings,
    console: Terminal,
) -> None:
    """Print a note for another model than the calibrated one, and for other settings of the modes.

    Args:
        saved: The saved settings, if there are any.
        selection: The values of fields of `CalibratedSelection` that are in use, by name.
        served: The settings of the server.
        console: The console.
    """
    if saved is None:
        return
    note_other_model(saved, served.model, console)
    used = TableSettings.of(selection, saved.model or served.model, served.context_limit())
    note_other_table(saved.modes, used, console)


def note_other_table(table: ModeTable | None, used: TableSettings, console: Terminal) -> None:
    """Print a note if a table of modes was measured with other settings than those in use."""
    note = None if table is None else table.note_on(used)
    if note is not None:
        print_note(console, note)


def print_note(console: Terminal, note: str) -> None:
    """Print a note."""
    console.print(f"note: {note}", soft_wrap=True)


def with_gguf_file(model: str | None, gguf_file: str | None) -> str | None:
    """Return the name of a model, with the GGUF file in it."""
    if model is None and gguf_file is not None:
        raise ArgumentError("--gguf-file needs --model, the folder or the hub's name that holds it")
    return None if model is None else join_gguf_file(model, gguf_file)


def selection_options(
    saved: CalibratedSettings | None,
    *,
    for_training: bool = False,
    k: int | None = None,
    fetch_k: int | None = None,
    kernel: str | None = None,
    length_scale: float | None = None,
    noise_variance: float | None = None,
) -> SelectionOptions:
    """Return the options that are set; an option takes precedence over the saved value.

    The saved values are those of fine-tuning if `for_training`, else those of retrieval.
    """
    options: SelectionOptions = {}
    if saved is not None:
        selection = saved.selection(for_training=for_training)
        options = {
            "k": selection.k,
            "fetch_k": selection.fetch_k,
            "kernel": selection.kernel,
            "noise_variance": selection.noise_variance,
        }
        if selection.length_scale is not None:
            options["length_scale"] = selection.length_scale
    if k is not None:
        options["k"] = k
    if fetch_k is not None:
        options["fetch_k"] = fetch_k
    if kernel is not None:
        options["kernel"] = kernel
    if length_scale is not None:
        options["length_scale"] = length_scale
    if noise_variance is not None:
        options["noise_variance"] = noise_variance
    return options


def finetuning(  # noqa: PLR0917 - the options of two commands, in their order
    saved: CalibratedSettings | None,
    objective: str | None,
    learning_rate: float | None,
    lora_rank: int | None,
    target_modules: str | None,
    max_length: int | None,
) -> FineTuneConfig:
    """Return the config of fine-tuning; an option takes precedence over the saved value."""
    config = FineTuneConfig() if saved is None else saved.finetune_config()
    if objective is not None:
        check_choice("--objective", objective, OBJECTIVES)
        config = replace(config, objective=objective)
    if lora_rank is not None:
        config = replace(config, lora_rank=lora_rank, lora_alpha=float(lora_rank))
    if target_modules is not None:
        config = replace(config, target_modules=parse_target_modules(target_modules))
    return replace(
        config,
        learning_rate=config.learning_rate if learning_rate is None else learning_rate,
        max_length=config.max_length if max_length is None else max_length,
    )


def find_collection(
    store: ChromaLocation, collection: str | None, embeddings: str | None
) -> tuple[str, str]:
    """Return the names of a collection and of the embeddings that filled it; reject others."""
    from langchain_sift.indexing.chroma_collections import embeddings_for, resolve_name

    name = resolve_name(store, collection)
    return name, embeddings_for(store, name, embeddings)


def open_store(
    store: ChromaLocation,
    collection: str | None,
    embeddings: str | None,
    loading: LoadSettings,
) -> Chroma:
    """Open a collection with the embeddings that filled it, and reject others."""
    from langchain_sift.indexing.chroma_collections import open_collection
    from langchain_sift.indexing.named_objects import load_embeddings, load_embeddings_of

    name, wanted = find_collection(store, collection, embeddings)
    load = load_embeddings if embeddings else partial(load_embeddings_of, name)
    return open_collection(store, name, lambda _: load(wanted, loading))


@contextmanager
def progress_bar(console: Terminal) -> Iterator[Progress]:
    """Show progress bars with the time elapsed and the time remaining.

    An error hides the bars of work that had not begun: its message says what happened.
    """
    with Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        try:
            yield progress
        except BaseException:
            for task in progress.tasks:
                progress.update(task.id, visible=task.completed > 0)
            raise
