"""`langchain-sift calibrate`: which λ', learning rate and k suit your store and model?"""

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
    opened,
    progress_bar,
)
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_sift.calibration.findings import Calibration, Estimate

_BAR = 24  # characters of the longest bar

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("calibrate")
def calibrate_command(  # noqa: PLR0917 - every argument is an option of the command
    store: Annotated[str, typer.Option(help="Chroma's folder, or the URL of its server.")],
    model: Annotated[str, typer.Option(help="A causal model: a name on the hub, or a folder.")],
    out: Annotated[Path, typer.Option(help="The settings file, for `compare --settings`.")],
    collection: Annotated[
        str | None, typer.Option(help="Its name; may be left out where there is only one.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="As in `compare`; by default those that the collection names."),
    ] = None,
    prompts: Annotated[int, typer.Option(help="Documents held out to be predicted.")] = 24,
    k: Annotated[int, typer.Option(help="The most documents to learn from.")] = 32,
    protocol: Annotated[str, typer.Option(help="document or continuation.")] = "document",
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = (
        FineTuneConfig().lora_rank
    ),
    max_length: Annotated[int, typer.Option(help="Tokens used of each document.")] = (
        FineTuneConfig().max_length
    ),
    share: Annotated[
        float, typer.Option(help="Of the steps that all combinations would take, how many.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of what is held out, and of adapters.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
) -> None:
    """Choose λ', learning rate and number of documents on documents held out of your store."""
    console = Console(stderr=True)
    with errors_in_one_line(console, "; nothing was written"):
        from langchain_sift.calibration import calibrate
        from langchain_sift.stores.locking import held
        from langchain_sift.ttft import load_language_model

        _make_room(out, overwrite=overwrite)  # hours of work are to have somewhere to go
        language_model = load_language_model(model)

        with held(store, alone=False), progress_bar(console) as progress:
            task = progress.add_task("holding out", total=prompts)
            found = calibrate(
                opened(store, collection, embeddings),
                model=language_model,
                prompts=prompts,
                k=k,
                protocol=protocol,
                finetune=FineTuneConfig(
                    lora_rank=lora_rank, lora_alpha=float(lora_rank), max_length=max_length
                ),
                share=share,
                seed=seed,
                on_progress=lambda what, done, of: progress.update(
                    task, description=what, completed=done, total=of
                ),
            )
        _show(found)
        try:
            found.settings.save(out, overwrite=overwrite)
            typer.echo(f"settings: {out}")
        finally:  # hours of work, which a full disk is not to cost
            echo_for_programs(found.to_json())


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Make the folder of a file, and see that the file can be written."""
    try:
        if out.is_dir():
            raise ArgumentError(f"{out} is a folder: name a file, such as {out / 'settings.json'}")
        new = not out.exists()
        if not new and not overwrite:
            raise ArgumentError(
                f"{out} is there already: name another file, or replace it with --overwrite"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8"):
            pass
        if new:
            out.unlink()
    except OSError as error:
        raise ArgumentError(f"{out} cannot be written: {error.strerror}") from error


def _show(found: Calibration) -> None:
    console = Console()
    noise = _table("λ'", "surrogate", "distinct")
    for point in found.noise_variances:
        extra = (f"{point.surrogate:.4f}", f"{point.distinct_documents:.1f}")
        _add(noise, f"{point.noise_variance:g}", point.measured, *extra)
    rates = _table("learning rate")
    for rate in found.learning_rates:
        _add(rates, f"{rate.learning_rate:g}", rate.measured)
    counts = _table("documents")
    for count in found.counts:
        _add(counts, str(count.k), count.measured)
    for table in (noise, rates, counts):
        console.print(table)
    settings = found.settings
    console.print(
        f"chosen: λ' = {settings.noise_variance:g}, learning rate {settings.learning_rate:g}, "
        f"k = {settings.k}; {found.steps} gradient steps, {found.grid_steps} for all combinations",
        highlight=False,
    )
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)


def _table(name: str, *more: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (name, *more, "% of base", "prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _add(table: Table, name: str, measured: Estimate | None, *more: str) -> None:
    """Add a line, with what was measured as a bar from 0 to 100 % and beyond."""
    if measured is None:
        table.add_row(name, *more, "not tried", "", "")
        return
    length = max(1, min(2 * _BAR, round(_BAR * measured.percent_of_base / 100)))
    percent = f"{measured.percent_of_base:.1f} ± {measured.standard_error:.1f}"
    table.add_row(name, *more, percent, str(measured.prompts), "▆" * length)
