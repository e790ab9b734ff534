"""The command line: the only code here that prints.

Progress and errors go to standard error, the result to standard output; the last line of the
result is one JSON document.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from langchain_sift.extras import require

require("compare", "typer", "rich")

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from langchain_sift.config import FineTuneConfig  # noqa: E402
from langchain_sift.errors import ArgumentError, SIFTError  # noqa: E402

if TYPE_CHECKING:
    from langchain_sift.comparison import Report, Row
    from langchain_sift.explanation import ExplainedChoice, Explanation

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

app = typer.Typer(
    help="SIFT retrieval and test-time fine-tuning, compared on your own documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command("compare")
def compare_command(  # noqa: PLR0917 - every argument is an option of the command
    corpus: Annotated[
        Path, typer.Option(help="Documents: a .jsonl(.gz), .txt or .md file, or a folder of them.")
    ],
    prompts: Annotated[
        Path, typer.Option(help="Texts to compare on, in the same formats, not in the corpus.")
    ],
    model: Annotated[str, typer.Option(help="A causal model: a name on the hub, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, the rows and the store.")],
    methods: Annotated[
        str, typer.Option(help="Comma-separated: base, rag:SELECTION, ttft:SELECTION.")
    ] = "base,rag:nearest,rag:sift,ttft:nearest,ttft:sift",
    protocol: Annotated[
        str, typer.Option(help="Comma-separated: document, continuation.")
    ] = "document",
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="Another model whose hidden states embed, or module:NAME of LangChain "
            "embeddings. By default the model's own hidden states."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Documents chosen for a prompt.")] = 20,
    fetch_k: Annotated[int, typer.Option(help="Candidates they are chosen from.")] = 200,
    noise_variance: Annotated[
        float, typer.Option(help="SIFT's λ'; 0.1 to 1 suit hidden states, 0.01 the paper's.")
    ] = 1.0,
    learning_rate: Annotated[
        float, typer.Option(help="Of fine-tuning; a small model wants a larger one.")
    ] = FineTuneConfig().learning_rate,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = (
        FineTuneConfig().lora_rank
    ),
    max_length: Annotated[int, typer.Option(help="Tokens used of each document.")] = (
        FineTuneConfig().max_length
    ),
    seed: Annotated[int, typer.Option(help="Of the adapter's initial weights.")] = 0,
) -> None:
    """Compare the base model, RAG and test-time fine-tuning on your documents and prompts."""
    console = Console(stderr=True)
    with _errors_in_one_line(console, f"; the rows so far are in {out / 'results.jsonl'}"):
        report = _compare(
            console,
            corpus=corpus,
            prompts=prompts,
            model=model,
            embeddings=embeddings,
            out=out,
            methods=_names(methods),
            protocols=_names(protocol),
            k=k,
            fetch_k=fetch_k,
            noise_variance=noise_variance,
            finetune=FineTuneConfig(
                learning_rate=learning_rate,
                lora_rank=lora_rank,
                lora_alpha=float(lora_rank),
                max_length=max_length,
                seed=seed,
            ),
        )
        _show(report)


@app.command("explain")
def explain_command(  # noqa: PLR0917 - every argument is an option of the command
    query: Annotated[str, typer.Argument(help="The prompt to choose documents for.")],
    store: Annotated[str, typer.Option(help="Chroma's folder, or the URL of its server.")],
    collection: Annotated[
        str | None, typer.Option(help="Name; may be left out where there is only one.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="A model whose hidden states embed, or module:NAME of LangChain embeddings. "
            "By default the model that the collection names."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Documents to choose.")] = 8,
    fetch_k: Annotated[int, typer.Option(help="Candidates they are chosen from.")] = 200,
    noise_variance: Annotated[float, typer.Option(help="SIFT's λ'.")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,  # noqa: FBT002
) -> None:
    """Tell which documents SIFT chooses for a query, why, and what the nearest ones bring."""
    with _errors_in_one_line(Console(stderr=True)):
        from langchain_sift.comparison.indexing import open_collection
        from langchain_sift.explanation import explain

        opened = open_collection(store, collection, lambda name: _embeddings(embeddings or name))
        found = explain(opened, query, k=k, fetch_k=fetch_k, noise_variance=noise_variance)
        if as_json:
            typer.echo(json.dumps(asdict(found), ensure_ascii=False))
        else:
            _show_explanation(found)


@contextmanager
def _errors_in_one_line(console: Console, after_interrupt: str = "") -> Iterator[None]:
    """Say what was wrong without a traceback, and exit."""
    logging.basicConfig(level=logging.ERROR)
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    except SIFTError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"interrupted{after_interrupt}")
        raise typer.Exit(130) from None


def _compare(
    console: Console,
    *,
    corpus: Path,
    prompts: Path,
    model: str,
    embeddings: str | None,
    out: Path,
    methods: Sequence[str],
    protocols: Sequence[str],
    **settings: Any,
) -> Report:
    from langchain_sift.comparison import compare, index_documents, read_corpus, read_prompts
    from langchain_sift.comparison.html import write_html
    from langchain_sift.comparison.measuring import parse_methods
    from langchain_sift.ttft import load_language_model

    # Everything that can be wrong about the arguments is found before the work begins.
    names = parse_methods(methods)
    documents, asked = read_corpus(corpus), read_prompts(prompts)
    language_model = load_language_model(model)
    with _progress(console) as progress:
        indexing = progress.add_task("embedding documents", total=len(documents))
        store = index_documents(
            documents,
            language_model if embeddings is None else _embeddings(embeddings),
            out / "chroma",
            on_progress=lambda done: progress.update(indexing, completed=done),
        )
        comparing = progress.add_task(
            "comparing", total=len(asked) * len(names) * len(set(protocols))
        )

        def advance(row: Row) -> None:
            progress.update(comparing, advance=1, description=f"{row.protocol}, {row.method}")

        report = compare(
            asked,
            methods,
            model=language_model,
            vectorstore=store,
            protocols=protocols,
            out=out,
            on_row=advance,
            **settings,
        )
    return write_html(report, out / "report.html")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _embeddings(name: str) -> Any:
    """Return the embeddings of a name: a model's hidden states, or an object to import."""
    from langchain_sift.ttft import load_language_model

    module, colon, attribute = name.partition(":")
    if not colon or Path(name).exists():
        return load_language_model(name)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        msg = f"there are no embeddings {name!r}: {error}"
        raise ArgumentError(msg) from error
    return found() if isinstance(found, type) else found


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _show(report: Report) -> None:
    console = Console()
    for protocol in report.protocols:
        for group in (None, *(report.groups if len(report.groups) > 1 else ())):
            console.print(_table(report, protocol, group))
    failures = sum(row.failure is not None for row in report.rows)
    if failures:
        console.print(f"{failures} of {len(report.rows)} rows have no result; the report says why")
    console.print(f"report: {report.path}", soft_wrap=True, highlight=False)
    typer.echo(json.dumps(report.to_json(), ensure_ascii=False))


def _table(report: Report, protocol: str, group: str | None) -> Table:
    count = report.prompts(protocol, group)
    table = Table(title=f"{protocol}, {group or 'all prompts'} ({count})", title_justify="left")
    table.add_column("method", no_wrap=True, min_width=max(map(len, report.methods)))
    for name in ("bits/byte", "% of base", "± s.e.", "seconds", "docs", "distinct"):
        table.add_column(name, justify="right")
    for method, summary in report.summary(protocol, group).items():
        table.add_row(
            method,
            f"{summary.bits_per_byte:.3f}",
            f"{summary.percent_of_base:.1f}",
            f"{summary.standard_error:.1f}",
            f"{summary.seconds:.2f}",
            f"{summary.documents_used:.1f}",
            f"{summary.distinct_documents:.1f}",
        )
    return table


def _show_explanation(found: Explanation) -> None:
    console = Console()
    console.print(_choices_table("SIFT", found.sift))
    console.print(_choices_table("nearest neighbours", found.nearest))
    left, nearest = found.sift[-1:], found.nearest[-1:]
    for choice, other in zip(left, nearest, strict=True):
        console.print(
            f"uncertainty: {found.prior_variance:.3f} before, {choice.posterior_variance:.3f} "
            f"after SIFT's, {other.posterior_variance:.3f} after the nearest, "
            f"{found.irreducible_variance:.3f} if all {found.candidates} candidates were known",
            highlight=False,
        )
    stops = ", ".join(f"{count} at α = {alpha:g}" for alpha, count in found.stops.items())
    console.print(f"adaptive stopping would stop after {stops}", highlight=False)


def _choices_table(title: str, choices: Sequence[ExplainedChoice]) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    for name in ("", "gain", "known", "left", "cosine", "like", "copies"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
    for number, choice in enumerate(choices, start=1):
        like = "" if choice.most_like is None else f"{choice.likeness:.2f} #{choice.most_like + 1}"
        table.add_row(
            str(number),
            f"{choice.gain:.3f}",
            f"{choice.known:.0%}",
            f"{choice.posterior_variance:.3f}",
            f"{choice.similarity:.2f}",
            like,
            str(choice.copies),
            Text(" ".join(choice.text.split())),
        )
    return table
