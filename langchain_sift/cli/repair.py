"""`langchain-sift repair`: name the embeddings of a collection again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from langchain_sift.cli.app import app, errors_in_one_line
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    QuantizationOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
)
from langchain_sift.cli.terminal import Terminal, to_json
from langchain_sift.ttft.model.load_settings import LoadSettings

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("repair")
def repair_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    embeddings: Annotated[
        str,
        typer.Option(
            metavar="EMBEDDINGS",
            help="Embeddings that filled the collection: a model whose hidden states they are, a "
            "sentence-transformer, or module:NAME of LangChain embeddings.",
        ),
    ],
    collection: CollectionOption = None,
    rows: Annotated[
        int, typer.Option(metavar="N", help="Number of rows to embed again and compare.")
    ] = 32,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Name the embeddings of a collection again, such as after its metadata were overwritten.

    A few texts are embedded again and compared with the stored vectors. If they
    differ, nothing is written.
    """
    with errors_in_one_line(Terminal(stderr=True), "; nothing was written"):
        from langchain_sift.indexing.named_objects import load_embeddings
        from langchain_sift.indexing.repair import repair
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        with locked(location.text, exclusive=True):
            repaired = repair(
                location,
                collection,
                embeddings,
                lambda name: load_embeddings(name, loading),
                rows=rows,
            )
        typer.echo(to_json({"store": location.text, **asdict(repaired)}))
