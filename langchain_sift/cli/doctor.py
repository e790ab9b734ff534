"""`langchain-sift doctor`: diagnose a store, and advise on SIFT."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    open_store,
    print_note,
    progress_bar,
)
from langchain_sift.cli.calibration_tables import number_table
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    QuantizationOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.cli.terminal import Terminal, to_json
from langchain_sift.errors import SIFTError
from langchain_sift.report.counts import counted
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_chroma import Chroma

    from langchain_sift.diagnosis import Diagnosis
    from langchain_sift.diagnosis.similarities import Distribution
    from langchain_sift.stores.location import ChromaLocation

_LANGUAGES = 5  # in the table

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("doctor")
def doctor_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    sample: Annotated[int, typer.Option(metavar="N", help="Number of texts to examine.")] = 500,
    queries: Annotated[
        int,
        typer.Option(metavar="N", help="Number of texts to make queries of, for the advice."),
    ] = 100,
    k: Annotated[
        int, typer.Option(metavar="N", help="Number of documents that the advice is for.")
    ] = 10,
    near_duplicate_similarity: Annotated[
        float,
        typer.Option(metavar="X", help="Cosine from which on a text counts as a near duplicate."),
    ] = 0.95,
    max_rows: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of rows to read.")
    ] = 200_000,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sample.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Diagnose a store: copies, similarities, languages, lengths, faults, and whether SIFT pays."""
    console = Terminal(stderr=True)
    with errors_in_one_line(console):
        from langchain_sift.diagnosis import diagnose
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        with locked(location.text, exclusive=False), progress_bar(console) as progress:
            task = progress.add_task("reading rows", total=None)
            diagnosis = diagnose(
                _open(location, collection, embeddings, loading, console),
                sample=sample,
                queries=queries,
                k=k,
                near_duplicate_similarity=near_duplicate_similarity,
                max_rows=max_rows,
                seed=seed,
                on_progress=lambda phase, done, total: progress.update(
                    task, description=phase, completed=done, total=total
                ),
            )
        if as_json:
            typer.echo(to_json(diagnosis.to_json()))
        else:
            _print(diagnosis)


def _open(
    location: ChromaLocation,
    collection: str | None,
    embeddings: str | None,
    loading: LoadSettings,
    console: Terminal,
) -> Chroma:
    """Open a collection; without embeddings if it names none that can be loaded."""
    from langchain_sift.indexing.chroma_clients import connect
    from langchain_sift.indexing.chroma_collections import resolve_name

    name = resolve_name(location, collection)
    try:
        return open_store(location, name, embeddings, loading)
    except SIFTError as error:
        if embeddings is not None:
            raise
        from langchain_chroma import Chroma

        print_note(console, str(error))
        return Chroma(name, client=connect(location), create_collection_if_not_exists=False)


def _print(diagnosis: Diagnosis) -> None:
    console = Terminal()
    for table in (_rows_table(diagnosis), _texts_table(diagnosis), _cosines_table(diagnosis)):
        console.print(table)
    for problem in diagnosis.problems:
        console.print(f"problem: {problem}")
    console.print(f"advice: {diagnosis.advice}")


def _rows_table(diagnosis: Diagnosis) -> Table:
    rows = diagnosis.rows
    table = _table("all rows" if rows.complete else f"the first {counted(rows.rows, 'row')}")
    table.add_row("rows", str(rows.rows))
    table.add_row("different texts", str(rows.texts))
    table.add_row("exact copies", f"{rows.exact_copies:.1%}, at most {rows.most_copies} of a text")
    table.add_row("rows without text, blank texts", f"{rows.without_text}, {rows.blank}")
    table.add_row("dimensions", ", ".join(map(str, rows.dimensions)))
    table.add_row("norms", f"{rows.shortest_norm:.4g} to {rows.longest_norm:.4g}")
    table.add_row(
        "zero vectors, NaN or infinite", f"{rows.zero_vectors}, {rows.non_finite_vectors}"
    )
    return table


def _texts_table(diagnosis: Diagnosis) -> Table:
    lengths = diagnosis.lengths
    table = _table(counted(diagnosis.similarities.texts, "sampled text"))
    similarity = diagnosis.similarities.near_duplicate_similarity
    table.add_row(
        f"with a near duplicate (cosine of at least {similarity:g})",
        f"{diagnosis.similarities.near_duplicates:.1%}",
    )
    table.add_row(
        f"{lengths.unit}: median, 95 %, longest",
        f"{lengths.median:.0f}, {lengths.percent_95:.0f}, {lengths.longest}",
    )
    if lengths.limit is not None:
        table.add_row(
            f"longer than the embeddings' {lengths.limit} tokens",
            f"{lengths.cut_texts:.1%}; {lengths.cut_share:.1%} of all tokens are cut off",
        )
    languages = list(diagnosis.languages.items())[:_LANGUAGES]
    table.add_row("languages", ", ".join(f"{name} {share:.0%}" for name, share in languages))
    return table


def _cosines_table(diagnosis: Diagnosis) -> Table:
    table = number_table("cosines", "5 %", "median", "95 %")
    similarities = diagnosis.similarities

    def add(name: str, cosines: Distribution) -> None:
        """Add the line of a distribution."""
        values = (cosines.percent_5, cosines.median, cosines.percent_95)
        table.add_row(name, *("–" if isnan(value) else f"{value:.3f}" for value in values))

    add("random pairs", similarities.random_pairs)
    add("nearest other text", similarities.nearest)
    add("tenth nearest", similarities.tenth)
    return table


def _table(title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title)
    table.add_column("", overflow="fold")
    return table
