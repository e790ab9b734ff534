"""Define the options that several commands share, and those of `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_sift.config import (
    STORE_HEADERS_VARIABLE,
    STORE_TOKEN_VARIABLE,
    FineTuneConfig,
)

_DEFAULT = FineTuneConfig()

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="Causal model: a name on the Hugging Face hub, a folder or a GGUF file.",
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
_STORE_HELP = (
    "Folder of Chroma, or the URL of its server: "
    "https://USER:PASSWORD@HOST:PORT/PATH?tenant=T&database=D, of which only scheme and host are "
    "required."
)
StoreOption = Annotated[str, typer.Option(metavar="DIR|URL", help=_STORE_HELP)]
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
        metavar="FILE", help="Settings file from `calibrate`. Other options take precedence."
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
    typer.Option(metavar="X", help="λ' of SIFT. Default: that of the kernel or the embeddings."),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help=f"Learning rate of fine-tuning. Default: {_DEFAULT.learning_rate:g}; small models "
        "need a larger one.",
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

# Options of `compare`.
PromptsOption = Annotated[
    Path,
    typer.Option(
        metavar="PATH",
        help="Texts or questions that are not in the store: a .jsonl, .jsonl.gz, .txt or .md "
        "file, or a folder of such files; also a folder in the format of BEIR, or a .tsv file of "
        "ids and questions. With --protocol qa, each line of a text file is a question.",
    ),
]
QrelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Relevant documents of the prompts, in the format of TREC or BEIR, for --protocol "
        'retrieval. Default: the "relevant" of each prompt, or the split test of a BEIR folder.',
    ),
]
LabelKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Metadata key of the documents that the relevant documents are named by, such as "
        "source for the files of chunks. Default: the documents' ids.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Folder for the report and the rows."),
]
ComparedModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Causal model: a name on the Hugging Face hub, a folder or a GGUF file. Default: the "
        "model in --settings; --protocol retrieval needs none.",
    ),
]
ComparedStoreOption = Annotated[
    str | None,
    typer.Option(metavar="DIR|URL", help=_STORE_HELP),
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Files to index first, instead of --store: .txt, .md, .html, .pdf, .jsonl, "
        ".jsonl.gz and .csv, or a folder of such files.",
    ),
]
ComparedEmbeddingsOption = Annotated[
    str | None,
    typer.Option(
        metavar="EMBEDDINGS",
        help="Model whose hidden states are the embeddings, a sentence-transformer, or "
        "module:NAME of LangChain embeddings. Default: those that filled the collection; with "
        "--corpus, --model.",
    ),
]
LeaksOption = Annotated[
    str,
    typer.Option(
        metavar="ACTION",
        help="Action for prompts whose scored text is in the store: report, exclude or ignore.",
    ),
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD,...",
        help="base; rag:, ttft: or both: followed by nearest, nearest-repeated, uncertainty, "
        "mmr, hull, random, sift, sift:residual, sift:exhaustive, pyversity-dpp (or -mmr, -msd, "
        "-cover, -ssd) or the name of a --retriever; or the name of a --chain. With --protocol "
        "retrieval also without rag:, as in nearest,sift. Options follow a method: :kernel=NAME, "
        ":length_scale=X, :noise_variance=X, :stopping_alpha=X; of mmr :lambda_mult=X; of "
        "pyversity's :diversity=X. Default: "
        "base,rag:nearest,rag:sift,ttft:nearest,ttft:sift, or nearest,mmr,sift for retrieval.",
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        metavar="PROTOCOL,...",
        help="document (score the prompt), continuation (score its second half), qa (answer it) "
        "or retrieval (score the documents against the relevant ones).",
    ),
]
KsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N,...",
        help="Number of documents for a prompt, or several numbers to compare, such as "
        "1,5,10. Default: 20; for retrieval 10.",
    ),
]
MaxTokensOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Maximum number of tokens of an answer, with --protocol qa.",
    ),
]
RetrieverOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=OBJECT",
        help="Your retriever, as NAME=module:OBJECT, for the methods rag:NAME, ttft:NAME and "
        "both:NAME. Repeatable.",
    ),
]
ChainOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=OBJECT",
        help="Your runnable from a question to an answer, as NAME=module:OBJECT, for the method "
        "NAME. Repeatable.",
    ),
]
ScorerOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=OBJECT",
        help="Your metric, as NAME=module:OBJECT: a function of (answer, prompt); more is better. "
        "Repeatable.",
    ),
]
JobsOption = Annotated[
    int,
    typer.Option(metavar="N", help="Number of prompts to train together."),
]
RayOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of Ray actors that train and answer, on the cluster of RAY_ADDRESS or on "
        "this machine. Default: no Ray.",
    ),
]
SeedOption = Annotated[
    int, typer.Option(metavar="N", help="Seed of adapters and of random choices.")
]
FailIfOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="Condition under which the exit code is 1, such as 'ndcg@10<0.40' or "
        "'sift:recall<0.6': a metric of --protocol, or redundancy, seconds, failures and other "
        "means of results.json. Without a method it is checked for each but base. Repeatable.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue the comparison in --out, and repeat failures."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the comparison in --out.")
]
