"""Prepare the calibrations of `langchain-sift calibrate`, so that mistakes are found early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.auto_mode import ModeTable, TableSettings
from langchain_sift.calibrated_settings import CalibratedSettings
from langchain_sift.cli.app import note_other_table, print_note, progress_bar
from langchain_sift.cli.prompts import prompts_of
from langchain_sift.cli.terminal import Terminal
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_chroma import Chroma


# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@dataclass(frozen=True, slots=True)
class Result:
    """The result of either calibration."""

    settings: CalibratedSettings
    json: Mapping[str, object]
    print: Callable[[], None]
    interrupted: bool = False
    """True if Ctrl-C ended the search: the settings are those found until then."""


Progress = Callable[[str, int, int], None]
Prepared = Callable[["Chroma", Progress], Result]


def read_modes(run: Path | None, console: Terminal) -> ModeTable | None:
    """Return the table of modes of a run folder of `compare`; None without one.

    Prints a note on each method and on the prompts of the run that the table lacks.
    """
    from langchain_sift.calibration.mode_figures import mode_table_of_run

    if run is None:
        return None
    of_run = mode_table_of_run(run)
    for note in of_run.notes:
        print_note(console, note)
    return of_run.table


def completed(
    newer: CalibratedSettings, modes: ModeTable | None, earlier: CalibratedSettings | None
) -> CalibratedSettings:
    """Return the new settings with a table of modes, and with what only earlier ones have."""
    chosen = replace(newer, modes=modes or newer.modes)
    return chosen if earlier is None else earlier.updated(chosen)


def note_modes(
    earlier: CalibratedSettings | None,
    settings: CalibratedSettings,
    console: Terminal,
    *,
    timed: bool,
) -> None:
    """Print notes on a table of modes: missing, of few prompts, or measured with other settings.

    Args:
        earlier: The settings that the file had before. None means none.
        settings: Those that it has now.
        console: The console.
        timed: True if a search within minutes was to compare the modes.
    """
    if settings.modes is None:
        if earlier is not None and earlier.modes is not None:
            print_note(
                console,
                "the earlier table of modes is left out, because it was measured with other "
                "settings: measure the modes again (--minutes, or --modes)",
            )
        elif timed and settings.fine_tuning is not None and settings.fine_tuning.mode is None:
            print_note(
                console,
                "no time was left to compare the modes, and auto has no table: raise --minutes, "
                "or compare the modes yourself (--modes)",
            )
        return
    from langchain_sift.calibration.mode_trials import ENOUGH_PROMPTS

    prompts = sum(each.prompts for each in settings.modes.bins)
    if prompts < ENOUGH_PROMPTS:
        print_note(
            console,
            f"the table of modes was measured on few prompts ({prompts}), and may choose modes by "
            f"chance: measure {ENOUGH_PROMPTS} or more (--prompts, or compare and --modes)",
        )
    if (measured_with := settings.modes.measured_with) is not None:
        # The settings say nothing about the documents in the prompt.
        table = replace(settings.modes, measured_with=replace(measured_with, context_k=None))
        used = TableSettings.of(asdict(settings.selection(for_training=True)), settings.model)
        note_other_table(table, used, console)


def check_options(
    model: str | None, of_retrieval: Mapping[str, object], of_tuning: Mapping[str, object]
) -> None:
    """Reject options of the other kind of calibration."""
    others, kind, cure = (
        (of_tuning, "fine-tuning", "name a model (--model)")
        if model is None
        else (of_retrieval, "retrieval", "leave --model out")
    )
    if given := [name for name, value in others.items() if value is not None]:
        raise ArgumentError(f"{', '.join(given)}: only for the calibration of {kind}: {cure}")


def prepare_retrieval(
    path: Path | None,
    qrels: Path | None,
    metric: str | None,
    *,
    label_key: str | None,
    prompts: int | None,
    k: int | None,
    seed: int,
) -> Prepared:
    """Read the queries, and return the calibration of retrieval.

    Raises:
        ArgumentError: If there are queries and a number of texts to make some of.
    """
    from langchain_sift.calibration import calibrate_retrieval
    from langchain_sift.cli.calibration_tables import print_retrieval_calibration

    if path is not None and prompts is not None:
        raise ArgumentError(
            "--prompts: all of --queries are used: leave one of them out, or name a model (--model)"
        )
    queries = None if path is None else prompts_of(path, qrels=qrels)

    def calibrate(store: Chroma, on_progress: Progress) -> Result:
        """Calibrate the retrieval of a collection."""
        result = calibrate_retrieval(
            store,
            queries,
            metric=metric,
            label_key=label_key,
            k=10 if k is None else k,
            prompts=200 if prompts is None else prompts,
            seed=seed,
            on_progress=on_progress,
        )
        return Result(
            result.settings, result.to_json(), partial(print_retrieval_calibration, result)
        )

    return calibrate


def prepare_fine_tuning(
    model: str,
    loading: LoadSettings,
    *,
    queries: Path | None,
    prompts: int | None,
    k: int | None,
    kernel: str | None,
    length_scale: float | None,
    protocol: str | None,
    finetune: FineTuneConfig,
    share: float | None,
    minutes: float | None,
    seed: int,
) -> Prepared:
    """Load the model, and return the calibration of fine-tuning.

    Raises:
        ArgumentError: If there are queries and a protocol, which is for held-out documents, or two
            limits of the search.
    """
    from langchain_sift.calibration import calibrate
    from langchain_sift.calibration.experiment import check_search
    from langchain_sift.cli.calibration_tables import print_calibration
    from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE, Kernel
    from langchain_sift.ttft import load_language_model

    if queries is not None and protocol is not None:
        raise ArgumentError(
            "--protocol: only for documents held out of the store: leave it or --queries out"
        )
    if share is not None and minutes is not None:
        raise ArgumentError("give either --share or --minutes, the limit of the search")
    questions = None if queries is None else prompts_of(queries)
    prompts, k = 24 if prompts is None else prompts, 32 if k is None else k
    protocol = "document" if protocol is None else protocol
    share = 0.1 if share is None else share
    length_scale = DEFAULT_LENGTH_SCALE if length_scale is None else length_scale
    checked_kernel = Kernel("linear" if kernel is None else kernel, length_scale)
    # Loading the model takes long.
    check_search(questions, prompts, k, protocol=protocol, share=share, minutes=minutes, seed=seed)
    language_model = load_language_model(model, **asdict(loading))

    def calibrate_store(store: Chroma, on_progress: Progress) -> Result:
        """Calibrate the training on documents of a collection."""
        result = calibrate(
            store,
            model=language_model,
            questions=questions,
            prompts=prompts,
            k=k,
            kernel=checked_kernel.name,
            length_scale=length_scale,
            protocol=protocol,
            finetune=finetune,
            share=share,
            minutes=minutes,
            seed=seed,
            on_progress=on_progress,
        )
        return Result(
            result.settings,
            result.to_json(),
            partial(print_calibration, result),
            result.interrupted,
        )

    return calibrate_store


def with_progress(prepared: Prepared, store: Chroma, console: Terminal) -> Result:
    """Calibrate, and show the progress."""
    with progress_bar(console) as progress:
        task = progress.add_task("reading the store", total=None)
        result = prepared(
            store,
            lambda phase, done, total: progress.update(
                task, description=phase, completed=done, total=total
            ),
        )
        done = progress.tasks[0].completed or 1  # a search may end before its limit
        progress.update(task, description="done", completed=done, total=done)
    return result
