"""`langchain-sift index`: write files into a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from langchain_sift.cli.app import app, errors_in_one_line, progress_bar
from langchain_sift.cli.options import (
    DeviceOption,
    DtypeOption,
    QuantizationOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_sift.indexing.chunks import ReadFiles

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("index")
def index_command(  # noqa: PLR0917 - every argument is an option of the command
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Files to index (.txt, .md, .html, .pdf, .jsonl, .jsonl.gz, .csv), or folders of "
            "such files.",
        ),
    ],
    store: StoreOption,
    collection: Annotated[
        str,
        typer.Option(metavar="NAME", help="Collection to write into, made if it does not exist."),
    ] = "documents",
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="EMBEDDINGS",
            help="Model whose hidden states are the embeddings, a sentence-transformer, or "
            "module:NAME of LangChain embeddings. Required for a new collection. Default: those "
            "that filled the collection.",
        ),
    ] = None,
    chunk_size: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of characters of a chunk.")
    ] = 2000,
    chunk_overlap: Annotated[
        int,
        typer.Option(
            metavar="N", help="Maximum number of characters that two neighbouring chunks share."
        ),
    ] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip files that cannot be read.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Write text, Markdown, HTML, PDF, JSONL and CSV files into a collection of Chroma.

    Equal texts are one row, however often they are indexed.
    After an interrupt, the same command continues.
    """
    console = Console(stderr=True)
    with errors_in_one_line(
        console, "; documents already written are kept: run the same command to continue"
    ):
        from langchain_sift.indexing.chroma_collections import embeddings_for
        from langchain_sift.indexing.chunks import Chunking, read_chunks
        from langchain_sift.indexing.files import find_files
        from langchain_sift.indexing.index import index_into
        from langchain_sift.indexing.named_objects import load_embeddings
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        # Mistakes in the arguments are reported before a model is loaded or a row is written.
        chunking = Chunking(chunk_size, chunk_overlap)
        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        with locked(location.text, exclusive=True), progress_bar(console) as progress:
            named = embeddings_for(location, collection, embeddings)
            found = find_files(paths)
            reading = progress.add_task("reading files", total=len(found.files))
            read = read_chunks(
                found.files,
                chunking,
                skip_unreadable=skip_unreadable,
                on_file=lambda: progress.advance(reading),
            )
            _print_skipped(console, read, found.skipped)
            different = len({chunk.id for chunk in read.chunks})
            embedding = progress.add_task("embedding chunks", total=different)
            indexed = index_into(
                location,
                collection,
                read.chunks,
                named,
                lambda name: load_embeddings(name, loading),
                on_progress=lambda done: progress.update(embedding, completed=done),
            )
    result = {
        "store": location.text,
        "collection": collection,
        "files": read.files,
        "documents": read.documents,
        "added": indexed.added,
        "present": indexed.present,
    }
    typer.echo(json.dumps(result, ensure_ascii=False))


def _print_skipped(console: Console, read: ReadFiles, others: int) -> None:
    """Print the files that gave no chunks, and the number of files of other formats."""
    lines = [f"skipped: {problem}" for problem in read.unreadable]
    lines += [f"no text in {file}" for file in read.empty]
    if others:
        lines.append(f"files of other formats skipped: {others}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
