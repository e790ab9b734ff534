"""`langchain-sift explain`: explain the choice of documents for a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    open_store,
    read_saved,
    selection_options,
)
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    FetchKOption,
    KernelOption,
    LengthScaleOption,
    NoiseVarianceOption,
    QuantizationOption,
    SettingsOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.cli.terminal import Terminal, to_json
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_sift.retrieval.explanation import ExplainedChoice, Explanation

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("explain")
def explain_command(  # noqa: PLR0917 - every argument is an option of the command
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Prompt to choose documents for.")],
    store: StoreOption,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    settings: SettingsOption = None,
    k: Annotated[
        int | None, typer.Option(metavar="N", help="Number of documents to choose. Default: 8.")
    ] = None,
    fetch_k: FetchKOption = None,
    kernel: KernelOption = None,
    length_scale: LengthScaleOption = None,
    noise_variance: NoiseVarianceOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Explain the documents that SIFT chooses for a query, next to the nearest neighbours."""
    with errors_in_one_line(Terminal(stderr=True)):
        from langchain_sift.retrieval.explanation import explain
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        if not query.strip():
            raise ArgumentError("QUERY is empty: write the prompt to choose documents for")
        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        options = selection_options(
            read_saved(settings),
            k=k,
            fetch_k=fetch_k,
            kernel=kernel,
            length_scale=length_scale,
            noise_variance=noise_variance,
        )
        with locked(location.text, exclusive=False):
            vectorstore = open_store(location, collection, embeddings, loading)
            explanation = explain(vectorstore, query, **options)
        if as_json:
            typer.echo(to_json(asdict(explanation)))
        else:
            _print(explanation)


_LEGEND = (
    "gain: uncertainty about the query that the document removes; known: share of its information "
    "that earlier choices have; left: uncertainty after it; cosine: with the query; like: highest "
    "cosine with an earlier choice, and its number; copies: rows with the same text"
)


def _print(explanation: Explanation) -> None:
    console = Terminal()
    console.print(_choices_table("SIFT", explanation.sift))
    console.print(_choices_table("nearest neighbours", explanation.nearest))
    console.print(_LEGEND)
    if [each.text for each in explanation.sift] == [each.text for each in explanation.nearest]:
        console.print(
            "Both choose the same documents. A smaller --noise-variance favours new facts."
        )
    sift, nearest = explanation.sift[-1], explanation.nearest[-1]
    console.print(
        f"uncertainty: {explanation.prior_variance:.3f} before, "
        f"{sift.posterior_variance:.3f} after SIFT, "
        f"{nearest.posterior_variance:.3f} after nearest neighbours, "
        f"{explanation.irreducible_variance:.3f} if all {explanation.candidates} candidates "
        "were known",
    )
    stops = ", ".join(
        f"{count or f'more than {len(explanation.sift)}'} with α = {alpha:g}"
        for alpha, count in explanation.stops.items()
    )
    console.print(f"documents with adaptive stopping (stopping_alpha of the retriever): {stops}")


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
            " ".join(choice.text.split()),
        )
    return table
