"""`langchain-sift compare`: which method serves you? And `report`: the same once more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.cli.app import (
    app,
    echo_for_programs,
    errors_in_one_line,
    names_of,
    opened,
    progress_bar,
    read_saved,
    recipe_of,
)
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_chroma import Chroma

    from langchain_sift.comparison import Report, Row

_MOST_REASONS = 3  # of rows without a result

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("compare")
def compare_command(  # noqa: PLR0917 - every argument is an option of the command
    prompts: Annotated[
        Path,
        typer.Option(
            help="Texts or questions that are not in the store: a .jsonl(.gz), .txt or .md file, "
            "or a folder of them. With --protocol qa each line of a .txt file is a question."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report and the rows.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A causal model: a name on the hub, or a folder. By default that of --settings."
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Chroma's folder, or the URL of its server.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Its name; may be left out where there is only one.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="In place of --store: documents in the same formats as the prompts."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: base; rag:, ttft: or both: with nearest, nearest-repeated, "
            "uncertainty, mmr, hull, random, sift, sift:residual, sift:exhaustive, or a retriever "
            "of yours; chains of yours. Behind it :noise_variance=X and :stopping_alpha=X."
        ),
    ] = "base,rag:nearest,rag:sift,ttft:nearest,ttft:sift",
    protocol: Annotated[
        str, typer.Option(help="Comma-separated: document, continuation, qa.")
    ] = "document",
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="Another model whose hidden states embed, or module:NAME of LangChain "
            "embeddings. By default those that the collection names, or for --corpus the model's."
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A file that `calibrate` wrote; options given win over it.")
    ] = None,
    k: Annotated[
        str | None, typer.Option(help="Documents chosen for a prompt: 20, or several: 1,5,10,25.")
    ] = None,
    fetch_k: Annotated[
        int | None, typer.Option(help="Candidates they are chosen from: 200.")
    ] = None,
    noise_variance: Annotated[
        float | None,
        typer.Option(help="SIFT's λ': 1 for hidden states, else the paper's 0.01."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of fine-tuning; a small model wants a larger one.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens used of each document.")] = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option(help="NAME=module:OBJECT, a retriever of yours; then rag:NAME, ttft:NAME."),
    ] = None,
    chain: Annotated[
        list[str] | None,
        typer.Option(help="NAME=module:OBJECT, a runnable of yours from question to answer."),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(help="NAME=module:FUNCTION of (answer, prompt), more is better."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, with --protocol qa.")] = 32,
    leaks: Annotated[
        str,
        typer.Option(help="Prompts whose scored text the store holds: report, exclude, ignore."),
    ] = "report",
    jobs: Annotated[int, typer.Option(help="Prompts that are trained together.")] = 8,
    ray: Annotated[
        int | None,
        typer.Option(
            help="Ray actors that train and answer, on the cluster of RAY_ADDRESS or this machine.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of adapters and random choices.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out; what failed is tried again.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = (
        False
    ),
) -> None:
    """Compare the base model, RAG and test-time fine-tuning on your documents and prompts."""
    console = Console(stderr=True)
    with errors_in_one_line(console, f"; go on with --resume, the rows so far are in {out}"):
        saved = read_saved(settings)
        report = _compare(
            console,
            prompts=prompts,
            model=_model(model, saved, console),
            out=out,
            where=(store, collection, corpus),
            embeddings=embeddings,
            methods=names_of(methods),
            protocols=names_of(protocol),
            settings=saved,
            k=None if k is None else _numbers(k),
            fetch_k=fetch_k,
            noise_variance=noise_variance,
            finetune=recipe_of(
                saved, learning_rate=learning_rate, lora_rank=lora_rank, max_length=max_length
            ),
            retrievers=_named(retriever),
            chains=_named(chain),
            scorers=_named(scorer),
            max_tokens=max_tokens,
            leaks=leaks,
            jobs=jobs,
            ray=ray,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
        )
        _show(report)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="What was --out of a comparison, done or not.")],
) -> None:
    """Write the report of a comparison once more, from the rows that are there."""
    with errors_in_one_line(Console(stderr=True)):
        from langchain_sift.comparison.run_folder import read_report
        from langchain_sift.report.files import write_report

        _show(write_report(read_report(folder), folder))


def _compare(
    console: Console,
    *,
    prompts: Path,
    model: str,
    out: Path,
    where: tuple[str | None, str | None, Path | None],
    embeddings: str | None,
    methods: Sequence[str],
    protocols: Sequence[str],
    **arguments: Any,
) -> Report:
    from langchain_sift.comparison import compare, read_prompts
    from langchain_sift.comparison.methods import parse_methods
    from langchain_sift.comparison.run_folder import make_folder, refuse_present
    from langchain_sift.comparison.tasks import named_protocols
    from langchain_sift.report.files import write_report
    from langchain_sift.stores.locking import held
    from langchain_sift.ttft import load_language_model

    # Everything that can be wrong about the arguments is found before the work begins.
    refuse_present(out, resume=arguments["resume"], overwrite=arguments["overwrite"])
    checked = named_protocols(protocols)
    parsed = parse_methods(methods, retrievers=arguments["retrievers"], chains=arguments["chains"])
    asked = read_prompts(prompts, lines="qa" in checked)
    make_folder(out)
    language_model = load_language_model(model)
    shared = nullcontext() if where[0] is None else held(where[0], alone=False)
    with shared, progress_bar(console) as progress:
        vectorstore = _open(where, embeddings, language_model, out, progress)
        counts = len(arguments["k"] or (1,))
        rows = sum(counts if method.selection else 1 for method in parsed)
        comparing = progress.add_task("comparing", total=len(asked) * len(checked) * rows)

        def advance(row: Row) -> None:
            progress.update(comparing, advance=1, description=f"{row.protocol}, {row.method}")

        report = compare(
            asked,
            methods,
            model=language_model,
            vectorstore=vectorstore,
            protocols=protocols,
            out=out,
            on_row=advance,
            **arguments,
        )
        progress.update(comparing, total=len(report.rows), description="done")
    return write_report(report, out)


def _open(
    where: tuple[str | None, str | None, Path | None],
    embeddings: str | None,
    model: Any,
    out: Path,
    progress: Any,
) -> Chroma:
    from langchain_sift.indexing import index_documents, read_corpus
    from langchain_sift.indexing.named_objects import load_embeddings

    store, collection, corpus = where
    if (store is None) == (corpus is None):
        raise ArgumentError(
            "give either --store, an indexed collection, or --corpus, files to index first"
        )
    if store is not None:
        return opened(store, collection, embeddings)
    assert corpus is not None  # noqa: S101 - checked above
    documents = read_corpus(corpus)
    indexing = progress.add_task("embedding documents", total=len(documents))
    return index_documents(
        documents,
        model if embeddings is None else load_embeddings(embeddings),
        out / "chroma",
        on_progress=lambda done: progress.update(indexing, completed=done),
    )


def _model(given: str | None, saved: CalibratedSettings | None, console: Console) -> str:
    """Return the model's name, and say where the settings are another model's."""
    if given is None:
        if saved is None:
            raise ArgumentError(
                "give --model, a causal model of the hub or a folder, or --settings that name one"
            )
        return saved.model
    if saved is not None and given != saved.model:
        console.print(
            f"note: the settings were calibrated with {saved.model}: another model may need others",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return given


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in names_of(text))
    except ValueError:
        raise ArgumentError(
            f"--k takes a number of documents, or several with commas between, got {text!r}"
        ) from None


def _named(options: Sequence[str] | None) -> dict[str, Any]:
    """Return the objects of options NAME=module:OBJECT by their names."""
    from langchain_sift.indexing.named_objects import import_object

    found = {}
    for option in options or ():
        name, equals, path = option.partition("=")
        if not equals or ":" not in path:
            raise ArgumentError(f"{option!r} is not NAME=module:OBJECT")
        found[name.strip()] = import_object(path)
    return found


def _show(report: Report) -> None:
    console = Console()
    for protocol in report.protocols:
        for group in (None, *(report.groups if len(report.groups) > 1 else ())):
            console.print(_table(report, protocol, group))
        console.print(
            f"{protocol}: {report.findings[protocol].verdict}", markup=False, highlight=False
        )
    reasons = Counter(row.failure for row in report.rows if row.failure is not None)
    if reasons:
        console.print(f"{reasons.total()} of {len(report.rows)} rows have no result:")
        for reason, count in reasons.most_common(_MOST_REASONS):
            console.print(f"  {count} x {reason}", markup=False, highlight=False)
    if report.leaks:
        advice = "" if report.leaks_excluded else " --leaks exclude leaves them out."
        console.print(f"leaks: {report.leak_notice}{advice}", highlight=False)
    console.print(f"report: {report.path}", soft_wrap=True, highlight=False)
    echo_for_programs(report.to_json())


def _table(report: Report, protocol: str, group: str | None) -> Table:
    count = report.prompts(protocol, group)
    most = f", k = {max(report.ks)}" if report.ks else ""
    table = Table(
        title=f"{protocol}, {group or 'all prompts'} ({count}){most}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    # Where the terminal is narrow, a method's name goes on in the next line, and no number.
    table.add_column("method", overflow="fold", min_width=15)
    summaries = report.summary(protocol, group)
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary.scores))
    predicted = any(math.isfinite(summary.bits_per_byte) for summary in summaries.values())
    headings = [name.replace("_", "\n") for name in names]
    headings += ["bits/byte", "% of base"] if predicted else []
    headings += ["seconds"] if names else ["seconds", "documents\n(distinct)"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for method, summary in summaries.items():
        cells = [_number(summary.scores.get(name), 3) for name in names]
        if predicted:
            percent, error = summary.percent_of_base, summary.standard_error
            cells += [
                _number(summary.bits_per_byte, 3),
                f"{_number(percent, 1)} ± {_number(error, 1)}",
            ]
        cells.append(f"{summary.seconds:.2f}")
        if not names:  # both do not fit into a terminal
            cells.append(f"{summary.documents_used:.1f} ({summary.distinct_documents:.1f})")
        table.add_row(method, *cells)
    return table


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"
