"""Define the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_sift.config import (
    STORE_HEADERS_VARIABLE,
    STORE_TOKEN_VARIABLE,
    FineTuneConfig,
)
from langchain_sift.errors import ArgumentError

_DEFAULT = FineTuneConfig()


def path_option(text: str) -> Path:
    """Return the path that an option names: an empty one is an error of usage."""
    from langchain_sift.indexing.paths import named_path  # noqa: PLC0415 - the help must not wait

    try:
        return named_path(text)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from error


ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="Causal model: a name on the Hugging Face hub, a folder, a GGUF file, or an adapter "
        "of `learn` or PEFT.",
    ),
]
GgufFileOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="GGUF file of --model on the hub or in its folder. Default: the one that --model "
        "names, or none.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Device of the models, such as cpu or cuda:1. Default: cuda if available, else cpu.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Type of the models' weights: bfloat16, float16 or float32. Default: the fastest of "
        "the device.",
    ),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        metavar="FORM", help="Quantize the models' weights to 4bit or 8bit. Default: as stored."
    ),
]
STORE_HELP = (
    "Folder of Chroma, or the URL of its server: "
    "https://USER:PASSWORD@HOST:PORT/PATH?tenant=T&database=D, of which only scheme and host are "
    "required."
)
StoreOption = Annotated[str, typer.Option(metavar="DIR|URL", help=STORE_HELP)]
StoreTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="Token of the store's server, sent as a bearer token, and to Chroma Cloud as its "
        f"API key. Prefer the variable {STORE_TOKEN_VARIABLE}: other users of this machine can see "
        "options.",
    ),
]
StoreHeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:VALUE",
        help="Header of each request to the store's server. Repeatable. Prefer the variable "
        f"{STORE_HEADERS_VARIABLE}, one header in each line.",
    ),
]
CollectionOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Collection of the store. Default: the only one."),
]
EmbeddingsOption = Annotated[
    str | None,
    typer.Option(
        metavar="EMBEDDINGS",
        help="Model whose hidden states are the embeddings, a sentence-transformer, or "
        "module:NAME of LangChain embeddings. Default: the model that filled the collection.",
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_option,
        metavar="FILE",
        help="Settings file from `calibrate`. Other options take precedence.",
    ),
]
ContextKOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of documents in the prompt, unless the request sets it. Default: as "
        "many as fit.",
    ),
]
FetchKOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of candidates to choose from. Default: 200."),
]
KernelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Kernel of SIFT: linear or rbf. Default: the embeddings' own, or linear.",
    ),
]
LengthScaleOption = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Length scale of the kernel rbf: smaller is closer to nearest neighbours."
    ),
]
NoiseVarianceOption = Annotated[
    float | None,
    typer.Option(metavar="X", help="λ' of SIFT. Default: the embeddings' own, or 6.5 (rbf: 4)."),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Learning rate of fine-tuning. Default: for each prompt, the rate at which the first "
        "step lowers the loss of its document by 0.6 nats per token.",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Loss of fine-tuning: text (on all of it), answer (on the answers of documents that "
        "are questions or conversations) or distill (the base model with the documents in its "
        f"context is the teacher). Default: {_DEFAULT.objective}.",
    ),
]
LoraRankOption = Annotated[
    int | None,
    typer.Option(metavar="N", help=f"Rank of the adapter. Default: {_DEFAULT.lora_rank}."),
]
TargetModulesOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYERS",
        help="Layers that get an adapter: all-linear, attention, mlp, last-N (the last N decoder "
        f"layers), or names of layers with commas. Default: {_DEFAULT.target_modules}.",
    ),
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=f"Maximum number of tokens of a document. Default: {_DEFAULT.max_length}.",
    ),
]
MaxMemoryOption = Annotated[
    float | None,
    typer.Option(
        "--max-memory-gb",
        metavar="GB",
        help="Maximum memory of the process, or of PyTorch on a GPU: batches are made smaller, and "
        "a prompt that does not fit alone is refused. Default: no limit.",
    ),
]
LabelKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Metadata key that holds the names of documents in the labels, such as source if the "
        "labels name files. Default: the documents' ids.",
    ),
]
