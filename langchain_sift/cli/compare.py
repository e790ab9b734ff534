"""`langchain-sift compare`: which method serves you?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from langchain_sift.cli.app import app, embeddings_of, errors_in_one_line, names_of, progress_bar
from langchain_sift.config import FineTuneConfig

if TYPE_CHECKING:
    from langchain_sift.comparison import Report, Row

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


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
    with errors_in_one_line(console, f"; the rows so far are in {out / 'results.jsonl'}"):
        report = _compare(
            console,
            corpus=corpus,
            prompts=prompts,
            model=model,
            embeddings=embeddings,
            out=out,
            methods=names_of(methods),
            protocols=names_of(protocol),
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
    with progress_bar(console) as progress:
        indexing = progress.add_task("embedding documents", total=len(documents))
        store = index_documents(
            documents,
            language_model if embeddings is None else embeddings_of(embeddings),
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
