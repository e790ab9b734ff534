"""`langchain-sift serve`: serve a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.checks import parse_ceilings
from langchain_sift.cli.app import (
    app,
    errors_in_one_line,
    finetuning,
    note_other_settings,
    read_saved,
    selection_options,
)
from langchain_sift.cli.options import (
    CollectionOption,
    ContextKOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    FetchKOption,
    GgufFileOption,
    KernelOption,
    LearningRateOption,
    LengthScaleOption,
    LoraRankOption,
    MaxLengthOption,
    MaxMemoryOption,
    ModelOption,
    NoiseVarianceOption,
    ObjectiveOption,
    QuantizationOption,
    SettingsOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
    TargetModulesOption,
    path_option,
)
from langchain_sift.cli.terminal import Terminal
from langchain_sift.config import API_KEY_VARIABLE, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.names import join_gguf_file

if TYPE_CHECKING:
    from langchain_sift.serving import ServingSettings, Tenants
    from langchain_sift.serving.service import Service

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("serve")
def serve_command(  # noqa: PLR0917 - every argument is an option of the command
    model: ModelOption,
    store: StoreOption,
    gguf_file: GgufFileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    settings: SettingsOption = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name for clients. Default: --model.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Address to listen on. A public one requires --tenants or an API key.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Port to listen on. 0 means any free port."
        ),
    ] = 8000,
    tenants: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="FILE",
            help="A .toml or .json file with the tokens of tenants and the filters of their "
            "documents. Default: no tenants.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar=API_KEY_VARIABLE,
            help="Token for all clients. Prefer the variable: other users of this machine can see "
            "options.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="Mode of requests that set none: base, rag, ttft, both or auto. Default: the "
            "best mode that --settings measured, else rag.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of documents for a prompt, unless the request sets it. Default: that of "
            "--settings, or as many as an adapter of `learn` saw, or 20.",
        ),
    ] = None,
    context_k: ContextKOption = None,
    fetch_k: FetchKOption = None,
    retrieval_query: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="Query for the retriever in a conversation: last (the user's last message), turns "
            "(the last three together) or rewrite (the model makes a follow-up stand alone).",
        ),
    ] = "last",
    kernel: KernelOption = None,
    length_scale: LengthScaleOption = None,
    noise_variance: NoiseVarianceOption = None,
    objective: ObjectiveOption = None,
    learning_rate: LearningRateOption = None,
    lora_rank: LoraRankOption = None,
    target_modules: TargetModulesOption = None,
    max_length: MaxLengthOption = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", help="Maximum number of tokens of an answer, unless the request sets it."
        ),
    ] = 256,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Deadline of an answer, in seconds.")
    ] = 600.0,
    max_batch_size: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of prompts to train together.")
    ] = Limits().max_batch_size,
    max_requests: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Maximum number of requests at a time. Further requests get 503.",
        ),
    ] = Limits().max_requests,
    max_memory_gb: MaxMemoryOption = None,
    adapter_cache: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="DIR",
            help="Folder for trained adapters, reused within a tenant. Default: no cache.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin of web pages that may send requests, such as https://app.example; * means "
            "all, and requires tokens. Repeatable. Default: none.",
        ),
    ] = None,
    ceiling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help='Highest value of an option in "ttft" of a request, such as k=50, or of '
            "max_tokens, n or prompts (in a list). Repeatable.",
        ),
    ] = None,
    max_sessions: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Maximum number of sessions: adapters kept in memory for later requests. "
            "0 keeps none.",
        ),
    ] = 256,
    session_memory_gb: Annotated[
        float,
        typer.Option(
            metavar="GB",
            help="Maximum memory of sessions, in GB. Beyond it, the tenant with the most memory "
            "loses its least recently used session. On a CPU, at most half of what the model and "
            "one request leave of --max-memory-gb.",
        ),
    ] = 2.0,
    session_idle: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Seconds after its last use until a session expires."),
    ] = 3600.0,
    session_lifetime: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Seconds after it was made until a session expires."),
    ] = 86_400.0,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Serve a model by OpenAI's protocol.

    Routes: /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings,
    /v1/models, and /v1/ttft/sessions for adapters that answer later requests.

    A request may set its options in the field "ttft" of its body: {"mode": "rag",
    "k": 5, "filter": {"year": 2024}}.
    """
    console = Terminal(stderr=True)
    with errors_in_one_line(console):
        from langchain_sift.serving import ServingSettings, SessionLimits
        from langchain_sift.stores.location import ChromaLocation

        saved = read_saved(settings)
        model = join_gguf_file(model, gguf_file)
        selection = partial(
            selection_options,
            saved,
            k=k,
            fetch_k=fetch_k,
            kernel=kernel,
            length_scale=length_scale,
            noise_variance=noise_variance,
        )
        served = ServingSettings(
            model=model,
            store=ChromaLocation.of(store, token=store_token, headers=store_header or ()),
            collection=collection,
            embeddings=embeddings,
            name=name,
            tenants=_tenants(tenants, api_key),
            mode=mode or (None if saved is None else saved.mode) or "rag",
            modes=None if saved is None else saved.modes,
            **selection(),
            context_k=context_k,
            training_selection=(
                None if saved is None else CalibratedSelection(**selection(for_training=True))
            ),
            retrieval_query=retrieval_query,
            finetune=finetuning(
                saved, objective, learning_rate, lora_rank, target_modules, max_length
            ),
            limits=Limits(
                max_batch_size=max_batch_size,
                max_requests=max_requests,
                max_memory_gb=max_memory_gb,
            ),
            sessions=SessionLimits(max_sessions, session_memory_gb, session_idle, session_lifetime),
            max_tokens=max_tokens,
            timeout=timeout,
            adapter_cache=adapter_cache,
            cors_origins=tuple(cors_origin or ()),
            ceilings=parse_ceilings(ceiling or ()),
            device=device,
            dtype=dtype,
            quantization=quantization,
        )
        note_other_settings(saved, selection(for_training=True), served, console)

        console.print(f"opening {served.store} and loading {served.model}", soft_wrap=True)
        # PyTorch takes seconds to load, and mistakes are named before.
        from langchain_sift.serving import serve

        report, announce = partial(_report_memory, console), partial(_announce, console, served)
        serve(served, host=host, port=port, on_open=report, on_ready=announce)


def _announce(console: Terminal, served: ServingSettings, url: str) -> None:
    """Print the address, for a reader and for programs."""
    console.print(f"serving {served.model_id} at {url}", soft_wrap=True)
    typer.echo(json.dumps({"url": url, "model": served.model_id}))


def _report_memory(console: Terminal, service: Service) -> None:
    """Print what the service keeps in memory."""
    from langchain_sift.serving.memory import describe_memory

    console.print(describe_memory(service), soft_wrap=True)


def _tenants(path: Path | None, api_key: str | None) -> Tenants:
    from langchain_sift.serving import Tenants

    key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key  # typer skips ""
    if path is not None and key:
        raise ArgumentError(f"give either --tenants or an API key (--api-key, {API_KEY_VARIABLE})")
    if path is not None:
        return Tenants.load(path)
    return Tenants.anybody() if key is None else Tenants.of_one_key(key)
