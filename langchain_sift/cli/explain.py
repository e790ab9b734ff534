"""`langchain-sift explain`: why these documents?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    given_or_saved,
    opened,
    read_saved,
)

if TYPE_CHECKING:
    from langchain_sift.retrieval.explanation import ExplainedChoice, Explanation

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


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
    settings: Annotated[
        Path | None, typer.Option(help="A file that `calibrate` wrote; options given win over it.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Documents to choose: 8.")] = None,
    fetch_k: Annotated[
        int | None, typer.Option(help="Candidates they are chosen from: 200.")
    ] = None,
    noise_variance: Annotated[
        float | None, typer.Option(help="SIFT's λ': 1 for hidden states, else 0.01.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Tell which documents SIFT chooses for a query, why, and what the nearest ones bring."""
    with errors_in_one_line(Console(stderr=True)):
        from langchain_sift.retrieval.explanation import explain
        from langchain_sift.stores.locking import held

        chosen = given_or_saved(
            read_saved(settings), k=k, fetch_k=fetch_k, noise_variance=noise_variance
        )
        with held(store, alone=False):
            found = explain(opened(store, collection, embeddings), query, **chosen)
        if as_json:
            typer.echo(json.dumps(asdict(found), ensure_ascii=False))
        else:
            _show_explanation(found)


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
    stops = ", ".join(
        f"{count or f'more than {len(found.sift)}'} at α = {alpha:g}"
        for alpha, count in found.stops.items()
    )
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
