"""`langchain-sift calibrate`: choose λ', learning rate and k for a store and a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from langchain_sift.cli.app import (
    app,
    echo_for_programs,
    errors_in_one_line,
    open_store,
    progress_bar,
)
from langchain_sift.cli.options import (
    CollectionOption,
    EmbeddingsOption,
    ModelOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_sift.calibration.calibration import Calibration, Estimate

_BAR = 24  # length of the bar of 100 %, in characters

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("calibrate")
def calibrate_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Settings file to write, for `compare --settings`."),
    ],
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    prompts: Annotated[
        int, typer.Option(metavar="N", help="Number of documents to hold out and predict.")
    ] = 24,
    k: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of documents to train on.")
    ] = 32,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="PROTOCOL",
            help="document (score the prompt) or continuation (score its second half).",
        ),
    ] = "document",
    lora_rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapter.")] = (
        FineTuneConfig().lora_rank
    ),
    max_length: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of tokens of a document.")
    ] = FineTuneConfig().max_length,
    share: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Fraction of the gradient steps of all combinations that may be taken, at most 1.",
        ),
    ] = 0.1,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of adapters and of the documents held out.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file at --out.")
    ] = False,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Choose λ', learning rate and number of documents with documents held out of a store."""
    console = Console(stderr=True)
    with errors_in_one_line(console, "; nothing was written"):
        from langchain_sift.calibration import calibrate
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked
        from langchain_sift.ttft import load_language_model

        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        _check_writable(out, overwrite=overwrite)  # before hours of work
        language_model = load_language_model(model)

        with locked(location.text, exclusive=False), progress_bar(console) as progress:
            task = progress.add_task("holding out", total=prompts)
            result = calibrate(
                open_store(location, collection, embeddings),
                model=language_model,
                prompts=prompts,
                k=k,
                protocol=protocol,
                finetune=FineTuneConfig(
                    lora_rank=lora_rank, lora_alpha=float(lora_rank), max_length=max_length
                ),
                share=share,
                seed=seed,
                on_progress=lambda phase, done, total: progress.update(
                    task, description=phase, completed=done, total=total
                ),
            )
        _print(result)
        try:
            result.settings.save(out, overwrite=overwrite)
            typer.echo(f"settings: {out}")
        finally:  # a full disk must not cost hours of work
            echo_for_programs(result.to_json())


def _check_writable(out: Path, *, overwrite: bool) -> None:
    """Make the folder of a file, and check that the file can be written."""
    try:
        if out.is_dir():
            raise ArgumentError(f"{out} is a folder: name a file, such as {out / 'settings.json'}")
        new = not out.exists()
        if not new and not overwrite:
            raise ArgumentError(
                f"{out} already exists: name another file, or replace it with --overwrite"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8"):
            pass
        if new:
            out.unlink()
    except OSError as error:
        raise ArgumentError(f"{out} cannot be written: {error.strerror}") from error


def _print(result: Calibration) -> None:
    console = Console()
    noise = _table("λ'", "surrogate", "distinct")
    for point in result.noise_variances:
        extra = (f"{point.surrogate:.4f}", f"{point.distinct_documents:.1f}")
        _add(noise, f"{point.noise_variance:g}", point.measured, *extra)
    rates = _table("learning rate")
    for rate in result.learning_rates:
        _add(rates, f"{rate.learning_rate:g}", rate.measured)
    counts = _table("documents")
    for count in result.counts:
        _add(counts, str(count.k), count.measured)
    for table in (noise, rates, counts):
        console.print(table)
    settings = result.settings
    console.print(
        f"chosen: λ' = {settings.noise_variance:g}, learning rate {settings.learning_rate:g}, "
        f"k = {settings.k}; {result.steps} gradient steps, of {result.grid_steps} for all "
        "combinations",
        highlight=False,
    )
    for note in result.notes:
        console.print(f"note: {note}", highlight=False)


def _table(name: str, *more: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (name, *more, "% of base", "prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _add(table: Table, name: str, measured: Estimate | None, *more: str) -> None:
    """Add a line with a bar for the percentage, which may exceed 100 %."""
    if measured is None:
        table.add_row(name, *more, "not tried", "", "")
        return
    length = max(1, min(2 * _BAR, round(_BAR * measured.percent_of_base / 100)))
    percent = f"{measured.percent_of_base:.1f} ± {measured.standard_error:.1f}"
    table.add_row(name, *more, percent, str(measured.prompts), "▆" * length)
