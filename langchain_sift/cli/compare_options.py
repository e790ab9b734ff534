"""Define the options of `compare`, and read their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_sift.cli.app import names_of
from langchain_sift.cli.options import STORE_HELP, path_option
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_sift.comparison.judging import Judge

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

PromptsOption = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Texts or questions that are not in the store: a .jsonl, .txt or .md file, or "
        "a folder of such files; also a folder in the format of BEIR, a .json, .csv or .parquet "
        "file of questions, as those of SQuAD, MMLU and ARC, or a .tsv file of ids and questions; "
        "all but .parquet and texts may be packed (.gz). With --protocol qa, each line of a text "
        "file is a question. Of a folder, the files of questions are read, and texts only if there "
        "are none; a note names the rest. "
        'Fields of a question: "question" or "text", "answers" or "choices", "group", "source", '
        'and its "relevant" documents.',
    ),
]
QrelsOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_option,
        metavar="FILE",
        help="Relevant documents of the prompts, in the format of TREC or BEIR, for --protocol "
        'retrieval. Default: the "relevant" of each prompt, or the split test of a BEIR folder.',
    ),
]
OutOption = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Folder for the report and the rows. Files of other origin in it stay: one with the "
        "name of a file of the report is an error.",
    ),
]
ComparedModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Causal model: a name on the Hugging Face hub, a folder, a GGUF file, or an adapter "
        "of `learn` or PEFT. Default: the model in --settings; --protocol retrieval needs none.",
    ),
]
ComparedStoreOption = Annotated[
    str | None,
    typer.Option(metavar="DIR|URL", help=STORE_HELP),
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Files to index first, instead of --store, or a folder of such files: all formats of "
        "`langchain-sift index`.",
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
        help="Action for prompts whose scored text is in the store, or whose question the model "
        "learned: report, exclude or ignore.",
    ),
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD,...",
        help="base; rag:, ttft:, both: or auto: followed by nearest, nearest-repeated, "
        "uncertainty, mmr, hull, random, sift, sift:residual, sift:exhaustive, sift:replace "
        "(documents again, for fine-tuning), pyversity-dpp (or -mmr, -msd, -cover, -ssd) or the "
        "name of a --retriever; or the name of a --chain. With "
        "--protocol retrieval also without rag:, as in nearest,sift. Options follow a method: "
        ":kernel=NAME, :length_scale=X, :noise_variance=X, :stopping_alpha=X; of mmr "
        ":lambda_mult=X; of pyversity's :diversity=X; of rag:, both: and auto: :context_k=X (the "
        "maximum number of documents in the prompt). Default: "
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
        "1,5,10. Default: that of --settings, or as many as an adapter of `learn` saw, or 20; for "
        "retrieval 10.",
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
        help='Your runnable from a question, or {"input": question}, to an answer, as '
        "NAME=module:OBJECT, for the method NAME. Repeatable.",
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
JudgeOption = Annotated[
    str | None,
    typer.Option(
        metavar="OBJECT",
        help="Chat model that grades the answers of qa, as module:OBJECT: against the references, "
        "and against the documents shown. A function or class is called.",
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
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the comparison in --out: remove the files that it wrote, and no others.",
    ),
]
ChatTemplateKwargsOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help="Arguments for the chat template: '{\"enable_thinking\": false}'."
    ),
]


def json_object(option: str, text: str | None) -> dict[str, object]:
    """Return the JSON object in the value of an option; an empty one without a value."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ArgumentError(f"{option} must be a JSON object, got {text!r}")
    return value


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of documents in the value of --k."""
    try:
        return tuple(int(part) for part in names_of(text))
    except ValueError:
        raise ArgumentError(
            f"--k takes a number of documents, or several separated by commas, got {text!r}"
        ) from None


def judge_of(path: str | None) -> Judge | None:
    """Return the judge with the chat model of --judge; None without the option."""
    from langchain_core.language_models import BaseChatModel

    from langchain_sift.comparison.judging import Judge
    from langchain_sift.indexing.named_objects import import_object

    if path is None:
        return None
    found = import_object(path)
    if isinstance(found, BaseChatModel) or not callable(found):
        return Judge(found)
    try:
        model = found()
    except Exception as error:
        raise ArgumentError(f"{path!r} cannot be made without arguments: {error}") from error
    return Judge(model)


def import_named(options: Sequence[str] | None) -> dict[str, Any]:
    """Import the objects of options NAME=module:OBJECT, by their names."""
    from langchain_sift.indexing.named_objects import import_object

    objects = {}
    for option in options or ():
        name, equals, path = option.partition("=")
        if not equals or ":" not in path:
            raise ArgumentError(f"{option!r} is not NAME=module:OBJECT")
        objects[name.strip()] = import_object(path)
    return objects
