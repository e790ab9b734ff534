"""`langchain-sift calibrate`: choose the settings of retrieval, or of fine-tuning, for a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.cli.app import (
    app,
    echo_for_programs,
    errors_in_one_line,
    finetuning,
    open_store,
    write_errors,
)
from langchain_sift.cli.calibration_runs import (
    check_options,
    completed,
    note_modes,
    prepare_fine_tuning,
    prepare_retrieval,
    read_modes,
    with_progress,
)
from langchain_sift.cli.calibration_tables import print_modes
from langchain_sift.cli.options import (
    CollectionOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    GgufFileOption,
    LabelKeyOption,
    ObjectiveOption,
    QuantizationOption,
    StoreHeaderOption,
    StoreOption,
    StoreTokenOption,
    TargetModulesOption,
    path_option,
)
from langchain_sift.cli.terminal import Terminal
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.load_settings import LoadSettings
from langchain_sift.ttft.model.names import join_gguf_file

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("calibrate")
def calibrate_command(  # noqa: PLR0917 - every argument is an option of the command
    store: StoreOption,
    out: Annotated[
        Path,
        typer.Option(
            parser=path_option,
            metavar="FILE",
            help="Settings file to write, for --settings of the other commands. A file of the "
            "other kind of calibration is kept, and completed.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Causal model to calibrate fine-tuning with: a name on the Hugging Face hub, a "
            "folder or a GGUF file. Default: calibrate retrieval, without a model.",
        ),
    ] = None,
    gguf_file: GgufFileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="PATH",
            help="Queries in a file or folder as `compare --prompts` takes it. Fields of a query: "
            '"question" or "text"; "relevant" ids (or --qrels) or "answers", for fine-tuning '
            '"answers" or "choices"; "id"; and "source": queries of one source count as one. '
            "Default: queries made of the store's own texts, or documents held out of it.",
        ),
    ] = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="FILE",
            help="Retrieval: relevant documents of --queries, in the format of TREC or BEIR.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Retrieval: ndcg, recall, mrr, hit, alpha_ndcg, intent_recall or answer_hit. "
            "Default: ndcg, or answer_hit if there are only answers.",
        ),
    ] = None,
    label_key: LabelKeyOption = None,
    collection: CollectionOption = None,
    embeddings: EmbeddingsOption = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of documents to hold out, or to make queries of; with --model and "
            "--queries, of questions to sample. Default: 24 with --model, else 200.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Maximum number of documents. Default: 32 with --model, else 10."
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Fine-tuning: kernel of SIFT, linear (the default) or rbf."
        ),
    ] = None,
    length_scale: Annotated[
        float | None,
        typer.Option(metavar="X", help="Fine-tuning: length scale of the kernel rbf."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="PROTOCOL",
            help="Fine-tuning without --queries: document (score the prompt; the default) or "
            "continuation (score its second half).",
        ),
    ] = None,
    objective: ObjectiveOption = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Fine-tuning: rank of the adapter. Default: {FineTuneConfig().lora_rank}.",
        ),
    ] = None,
    target_modules: TargetModulesOption = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Fine-tuning: maximum number of tokens of a document. Default: "
            f"{FineTuneConfig().max_length}.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Fine-tuning: maximum number of gradient steps, as a fraction of those that all "
            "combinations would take. At most 1. Default: 0.1.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Fine-tuning: time limit of the search, in place of --share. The objective, the "
            "steps on each document, the layers with adapters, the rank and the mode are then "
            "chosen as well.",
        ),
    ] = None,
    modes: Annotated[
        Path | None,
        typer.Option(
            parser=path_option,
            metavar="RUN",
            help="Folder of a run of `compare` with base, rag:sift, ttft:sift and both:sift; RAG "
            "and both may have the same :context_k=N. The settings file gets the gain and the time "
            "of each mode there, for mode auto. Default: with --minutes, those that the search "
            "measured.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of adapters, of samples and of intervals.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace this kind of calibration in --out.")
    ] = False,
    store_token: StoreTokenOption = None,
    store_header: StoreHeaderOption = None,
) -> None:
    """Choose the settings of retrieval for a store, or with --model those of fine-tuning."""
    console = Terminal(stderr=True)
    with errors_in_one_line(console, "; nothing was written"):
        from langchain_sift.stores.location import ChromaLocation
        from langchain_sift.stores.locking import locked

        check_options(
            model,
            {"--qrels": qrels, "--metric": metric, "--label-key": label_key},
            {
                "--gguf-file": gguf_file,
                "--kernel": kernel,
                "--length-scale": length_scale,
                "--protocol": protocol,
                "--objective": objective,
                "--lora-rank": lora_rank,
                "--target-modules": target_modules,
                "--max-length": max_length,
                "--share": share,
                "--minutes": minutes,
            },
        )
        loading = LoadSettings(device, dtype, quantization)
        location = ChromaLocation.of(store, token=store_token, headers=store_header or ())
        table = read_modes(modes, console)
        earlier = _earlier_settings(out, for_training=model is not None, overwrite=overwrite)
        prepared = (
            prepare_retrieval(
                queries, qrels, metric, label_key=label_key, prompts=prompts, k=k, seed=seed
            )
            if model is None
            else prepare_fine_tuning(
                join_gguf_file(model, gguf_file),
                loading,
                queries=queries,
                prompts=prompts,
                k=k,
                kernel=kernel,
                length_scale=length_scale,
                protocol=protocol,
                finetune=_finetune(objective, lora_rank, target_modules, max_length),
                share=share,
                minutes=minutes,
                seed=seed,
            )
        )
        with locked(location.text, exclusive=False):
            result = with_progress(
                prepared, open_store(location, collection, embeddings, loading), console
            )
        result.print()
        print_modes(table or result.settings.modes)
        settings = completed(result.settings, table, earlier)
        try:
            settings.save(out, overwrite=overwrite or earlier is not None)
            typer.echo(f"settings: {out}")
        finally:  # a full disk must not cost hours of work
            echo_for_programs(result.json)
        note_modes(earlier, settings, console, timed=bool(minutes and not result.interrupted))
        if result.interrupted:
            raise typer.Exit(130)


def _finetune(
    objective: str | None, lora_rank: int | None, target_modules: str | None, max_length: int | None
) -> FineTuneConfig:
    rank = FineTuneConfig().lora_rank if lora_rank is None else lora_rank
    return finetuning(None, objective, None, rank, target_modules, max_length)


def _earlier_settings(
    out: Path, *, for_training: bool, overwrite: bool
) -> CalibratedSettings | None:
    """Return the settings in a file that another calibration wrote; None if there are none.

    Makes the folder of the file, and checks that the file can be written.
    """
    with write_errors(out):
        if out.is_dir():
            raise ArgumentError(f"{out} is a folder: name a file, such as {out / 'settings.json'}")
        new = not out.exists()
        saved = None if new else _load(out, overwrite=overwrite)
        section = saved and (saved.fine_tuning if for_training else saved.retrieval)
        if section is not None and not overwrite:
            raise ArgumentError(
                f"{out} already exists: name another file, or replace it with --overwrite"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8"):
            pass
        if new:
            out.unlink()
    return saved


def _load(out: Path, *, overwrite: bool) -> CalibratedSettings | None:
    """Return the settings in a file; with `overwrite`, None if it holds something else."""
    try:
        return CalibratedSettings.load(out)
    except ArgumentError as error:
        if overwrite:
            return None
        raise ArgumentError(
            f"{error}; name another file, or replace it with --overwrite"
        ) from error
