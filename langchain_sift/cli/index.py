"""`langchain-sift index`: bring a collection to the state of files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_sift.cli.app import app, echo_for_programs, errors_in_one_line, progress_bar
from langchain_sift.cli.options import (
    DeviceOption,
    DtypeOption,
    QuantizationOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.cli.terminal import Terminal
from langchain_sift.report.counts import counted
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_sift.indexing.file_runs import FileRun

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("index")
def index_command(  # noqa: PLR0917 - every argument is an option of the command
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files to index, or folders: text, Markdown, HTML, PDF, JSONL, CSV, source code, "
            "notebooks, books and mail, and with the extra \\[files] documents of office programs "
            "and spreadsheets.",
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
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of tokens of a chunk. Default: as many as the embeddings read, "
            "but at most 512. A heading begins a chunk.",
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of characters of a chunk, in place of tokens. A chunk may hold "
            "several short sections.",
        ),
    ] = None,
    chunk_overlap: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Maximum number of tokens (with --chunk-size, characters) that two neighbouring "
            "chunks share.",
        ),
    ] = 0,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Owner of the rows, such as tenant=example: in the metadata of each row. The "
            "same files may be indexed for several owners.",
        ),
    ] = None,
    keep_removed: Annotated[
        bool,
        typer.Option("--keep-removed", help="Keep the rows of files and texts that are gone."),
    ] = False,
    allow_empty: Annotated[
        bool,
        typer.Option(
            "--allow-empty",
            help="Delete the rows of a folder, or of a disk in it, if none of its files is there "
            "any more. Without it that is an error: the disk may not be mounted.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at a file that cannot be read, and write nothing."),
    ] = False,
    all_files: Annotated[
        bool,
        typer.Option(
            "--all-files",
            help="Read hidden files, virtual environments, caches, checkpoints and adapters of "
            "folders, too, and what compare and calibrate wrote.",
        ),
    ] = False,
    gitignore: Annotated[
        bool, typer.Option("--gitignore", help="Leave out what .gitignore files name.")
    ] = False,
    text_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Column of CSV files, or key of JSONL files, that holds text; several are "
            "joined. Repeatable. Default: text, page_content or content.",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoding of text files that are not UTF-8 and declare no other, such as "
            "windows-1252.",
        ),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="LANGCHAIN_SIFT_PDF_PASSWORD",
            help="Password of encrypted PDFs. Prefer the variable: other users of this machine "
            "can see options.",
        ),
    ] = None,
    loader: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[.ENDING=]module:NAME",
            help="LangChain loader for files whose names have this ending; without one, for all "
            "files. It is called with a path. Repeatable.",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Bring a collection of Chroma to the state of files and folders.

    New texts are added, changed ones are updated, and rows of texts and files
    that are gone are removed; rows of files elsewhere stay. A file or folder that
    cannot be read is listed at the end, its rows stay, and the exit code is 1.
    After an interrupt, the same command continues.
    """
    console = Terminal(stderr=True)
    with errors_in_one_line(
        console, "; documents already written are kept: run the same command to continue"
    ):
        from langchain_sift.indexing.file_runs import FileSettings, Progress, index_files
        from langchain_sift.indexing.folders import FolderRules
        from langchain_sift.indexing.formats import Reading
        from langchain_sift.indexing.loaders import readers_with
        from langchain_sift.indexing.named_objects import load_embeddings
        from langchain_sift.indexing.origins import Origin
        from langchain_sift.indexing.paths import named_path
        from langchain_sift.indexing.text_limits import text_limits
        from langchain_sift.indexing.token_lengths import ChunkLengths
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        # Mistakes in the arguments are reported before a model is loaded or a row is written.
        named = [named_path(path) for path in paths]
        settings = FileSettings(
            lengths=ChunkLengths(chunk_tokens, chunk_size, chunk_overlap),
            rules=FolderRules(all_files, gitignore),
            reading=Reading(encoding, password, tuple(text_key or ())),
            readers=readers_with(loader or ()),
            origin=Origin.of(origin or ()),
            strict=strict,
            keep_removed=keep_removed,
            allow_empty=allow_empty,
            limits=text_limits,
        )
        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        lock = locked(location.text, exclusive=True, creates=True)
        with lock, progress_bar(console) as bar:
            reading = bar.add_task("reading files", total=None)
            embedding = bar.add_task("embedding chunks", total=None)
            run = index_files(
                location,
                collection,
                named,
                embeddings,
                lambda name: load_embeddings(name, loading),
                settings,
                Progress(
                    lambda done, total: bar.update(reading, completed=done, total=total),
                    lambda done, total: bar.update(embedding, completed=done, total=total),
                    lambda warning: _print(console, f"warning: {warning}"),
                ),
            )
    _print_outcome(console, run)
    result = {
        "store": location.text,
        "collection": collection,
        "files": run.read.files,
        "documents": run.read.documents,
        **asdict(run.changes),
        "unreadable": len(run.problems),
    }
    echo_for_programs(result)
    if run.problems:
        raise typer.Exit(1)


def _print_outcome(console: Terminal, run: FileRun) -> None:
    """Print notes, the files that gave no chunks or were not read, and what changed."""
    for note in run.read.notes:
        _print(console, f"warning: {note}")
    for file in run.read.empty:
        is_pdf = str(file).lower().endswith(".pdf")
        hint = ": if its pages are pictures, run text recognition (OCR) first" if is_pdf else ""
        _print(console, f"no text in {file}{hint}")
    endings = ", ".join(f"{count} {ending}" for ending, count in run.found.skipped.items())
    for count, kind in (
        (endings, "files of other formats skipped"),
        (
            run.found.left_out,
            "left out (hidden files, environments, caches, checkpoints, adapters, and what compare "
            "and calibrate wrote; --all-files reads them)",
        ),
        (run.found.links, "links to files and folders that are read under another name"),
    ):
        if count:
            _print(console, f"{kind}: {count}")
    for problem in run.problems:
        _print(console, f"skipped: {problem}")
    changes = run.changes
    _print(
        console,
        f"{counted(run.read.files, 'file')} read: {counted(changes.added, 'chunk')} added, "
        f"{changes.updated} updated, "
        f"{changes.removed} removed, {changes.unchanged} unchanged",
    )


def _print(console: Terminal, line: str) -> None:
    console.print(line, soft_wrap=True)
