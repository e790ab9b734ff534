"""`langchain-sift index`: files into a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from langchain_sift.cli.app import app, errors_in_one_line, progress_bar

if TYPE_CHECKING:
    from langchain_sift.indexing.chunks import ReadFiles

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("index")
def index_command(  # noqa: PLR0917 - every argument is an option of the command
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Files (.txt, .md, .html, .pdf, .jsonl, .jsonl.gz, .csv), and folders of them.",
        ),
    ],
    store: Annotated[
        str, typer.Option(help="Chroma's folder, which may be new, or the URL of its server.")
    ],
    collection: Annotated[str, typer.Option(help="Name; made where there is none.")] = "documents",
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="A model whose hidden states embed, or module:NAME of LangChain embeddings. "
            "A new collection needs it; another keeps the model that it names."
        ),
    ] = None,
    chunk_size: Annotated[int, typer.Option(help="Characters of a chunk at most.")] = 2000,
    chunk_overlap: Annotated[int, typer.Option(help="Characters that two neighbours share.")] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Pass over files that cannot be read.")
    ] = False,
) -> None:
    """Put text, Markdown, HTML, PDF, JSONL and CSV files into a Chroma collection.

    The same text is one row, however often it is indexed. A run that was interrupted goes on
    where it was.
    """
    console = Console(stderr=True)
    with errors_in_one_line(console, "; what is in stays in, and the same command goes on"):
        from langchain_sift.indexing.chroma_collections import embeddings_for
        from langchain_sift.indexing.chunks import Chunking, read_chunks
        from langchain_sift.indexing.files import find_files
        from langchain_sift.indexing.index import index_into
        from langchain_sift.indexing.named_objects import load_embeddings
        from langchain_sift.stores.locking import held

        # Everything that can be wrong is found before a model is loaded or anything written.
        chunking = Chunking(chunk_size, chunk_overlap)
        with held(store, alone=True), progress_bar(console) as progress:
            named = embeddings_for(store, collection, embeddings)
            found = find_files(paths)
            reading = progress.add_task("reading files", total=len(found.files))
            read = read_chunks(
                found.files,
                chunking,
                skip_unreadable=skip_unreadable,
                on_file=lambda: progress.advance(reading),
            )
            _tell(console, read, found.skipped)
            different = len({chunk.id for chunk in read.chunks})
            embedding = progress.add_task("embedding chunks", total=different)
            indexed = index_into(
                store,
                collection,
                read.chunks,
                named,
                load_embeddings,
                on_progress=lambda done: progress.update(embedding, completed=done),
            )
    result = {
        "store": store,
        "collection": collection,
        "files": read.files,
        "documents": read.documents,
        "added": indexed.added,
        "present": indexed.present,
    }
    typer.echo(json.dumps(result, ensure_ascii=False))


def _tell(console: Console, read: ReadFiles, passed_over: int) -> None:
    """Say which files nothing was taken from."""
    lines = [f"passed over: {problem}" for problem in read.unreadable]
    lines += [f"no text in {file}" for file in read.empty]
    if passed_over:
        lines.append(f"files of other kinds passed over: {passed_over}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
