"""`langchain-sift serve`: the model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    given_or_saved,
    read_saved,
    recipe_of,
)
from langchain_sift.config import API_KEY_VARIABLE, Limits
from langchain_sift.errors import ArgumentError

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("serve")
def serve_command(  # noqa: PLR0917 - every argument is an option of the command
    model: Annotated[str, typer.Option(help="A causal model: a name on the hub, or a folder.")],
    store: Annotated[str, typer.Option(help="Chroma's folder, or the URL of its server.")],
    collection: Annotated[
        str | None, typer.Option(help="Its name; may be left out where there is only one.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="As in `compare`; by default those that the collection names."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A file that `calibrate` wrote; options given win over it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; by default as --model.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; a public one needs tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    tenants: Annotated[
        Path | None,
        typer.Option(help="A .toml or .json file: tokens, and the documents that each may see."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=API_KEY_VARIABLE, help="One token for everybody, better by the variable."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Of requests that do not choose: base, rag, ttft, both.")
    ] = "ttft",
    k: Annotated[int | None, typer.Option(help="Documents for a prompt: 20.")] = None,
    noise_variance: Annotated[
        float | None, typer.Option(help="SIFT's λ': 1 for hidden states, else 0.01.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of fine-tuning.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens used of each document.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer that asks for no number.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer.")] = 600.0,
    max_batch_size: Annotated[int, typer.Option(help="Prompts trained together.")] = (
        Limits().max_batch_size
    ),
    max_requests: Annotated[
        int, typer.Option(help="Requests at once; one more is refused.")
    ] = Limits().max_requests,
    adapter_cache: Annotated[
        Path | None, typer.Option(help="A folder: what was learned once is kept for its tenant.")
    ] = None,
) -> None:
    """Serve the model by OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models.

    `ttft` in a request's body chooses: {"mode": "rag", "k": 5, "filter": {"year": 2024}}.
    """
    console = Console(stderr=True)
    with errors_in_one_line(console):
        from langchain_sift.serving import ServingSettings, serve

        saved = read_saved(settings)
        served = ServingSettings(
            model=model,
            store=store,
            collection=collection,
            embeddings=embeddings,
            name=name,
            tenants=_tenants(tenants, api_key),
            mode=mode,
            **given_or_saved(saved, k=k, noise_variance=noise_variance, fetch_k=None),
            finetune=recipe_of(
                saved, learning_rate=learning_rate, lora_rank=lora_rank, max_length=max_length
            ),
            limits=Limits(max_batch_size=max_batch_size, max_requests=max_requests),
            max_tokens=max_tokens,
            timeout=timeout,
            adapter_cache=adapter_cache,
        )

        def tell(url: str) -> None:
            console.print(f"serving {served.model_id} at {url}", soft_wrap=True, highlight=False)
            typer.echo(json.dumps({"url": url, "model": served.model_id}))

        serve(served, host=host, port=port, on_ready=tell)


def _tenants(path: Path | None, api_key: str | None) -> Any:
    from langchain_sift.serving import Tenants

    if path is not None and api_key is not None:
        raise ArgumentError(f"give either --tenants or an API key (--api-key, {API_KEY_VARIABLE})")
    if path is not None:
        return Tenants.load(path)
    return Tenants.anybody() if api_key is None else Tenants.of_one_key(api_key)
