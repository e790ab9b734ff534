"""Print the results of calibrations as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from langchain_sift.auto_mode import TOLERANCE, ModeTable
from langchain_sift.cli.terminal import Terminal

if TYPE_CHECKING:
    from langchain_sift.calibration.calibration import Calibration, Estimate
    from langchain_sift.calibration.cross_validation import HeldOutScores
    from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
    from langchain_sift.retrieval.defaults import KernelSettings

_PERCENT = (
    "% of base: bits that held-out texts or answers need, in percent of those with the base "
    "model; lower is better. surrogate: log-likelihood of the texts given their embeddings; higher "
    "is better, and the lowest are not tried"
)
_LABELLED = "scores: mean of the metric over the queries; higher is better"
_MADE = (
    "scores for one sentence: α-nDCG of the texts like its own; for two sentences: share of their "
    "two texts that is found; higher is better"
)
_BAR, _LONGEST = 16, 24  # lengths of the bar of 100 %, and of any, in characters


def print_calibration(result: Calibration) -> None:
    """Print a calibration of fine-tuning."""
    from langchain_sift.calibration.search import NAMES, label_of  # noqa: PLC0415 - needs PyTorch

    console = Terminal()
    noise = _table("λ'", "surrogate")
    for point in result.noise_variances:
        _add(noise, f"{point.noise_variance:g}", point.measured, f"{point.surrogate:.4f}")
    rates = _table("learning rate")
    for rate in result.learning_rates:
        _add(rates, label_of(rate.learning_rate), rate.measured)
    counts = _table("documents")
    for count in result.counts:
        _add(counts, str(count.k), count.measured)
    others = {point.name: _table(NAMES.get(point.name, point.name)) for point in result.others}
    for other in result.others:
        _add(others[other.name], other.value, other.measured)
    for table in (noise, rates, *others.values(), counts):
        console.print(table)
    console.print(_PERCENT)
    tuned = result.settings.fine_tuning
    if tuned is not None:
        # Within minutes, more is compared than the grid of learning rates and λ'.
        grid = "" if result.others else f", of {result.grid_steps} for all combinations"
        mode = "" if tuned.mode is None else f", mode = {tuned.mode}"
        learning_rate = label_of(tuned.learning_rate)
        console.print(
            f"chosen: λ' = {tuned.selection.noise_variance:g}, learning rate {learning_rate}, "
            f"k = {tuned.selection.k}, objective = {tuned.objective}, "
            f"steps per document = {tuned.steps_per_document}, layers = {tuned.target_modules}, "
            f"rank = {tuned.lora_rank}{mode}; {result.steps} gradient steps{grid}",
        )
    _print_notes(console, result.notes)


def print_retrieval_calibration(result: RetrievalCalibration) -> None:
    """Print a calibration of retrieval."""
    console = Terminal()
    for index, held_out in enumerate(result.held_out):
        console.print(_kernel_table(result, index, held_out.kind))
    if len(result.counts) > 1:
        counts = number_table("documents", "SIFT", "nearest")
        for count in result.counts:
            counts.add_row(str(count.k), f"{count.score:.3f}", f"{count.nearest:.3f}")
        console.print(counts)
    console.print(_LABELLED if result.labelled else _MADE)
    chosen = result.selection
    length = "" if chosen.length_scale is None else f", length scale {chosen.length_scale:g}"
    console.print(
        f"chosen: kernel {chosen.kernel}{length}, λ' = {chosen.noise_variance:g}, k = {chosen.k}",
    )
    for held_out in result.held_out:
        console.print(held_out_sentence(held_out, result.queries))
    _print_notes(console, result.notes)


def print_modes(modes: ModeTable | None) -> None:
    """Print a table of modes: a row for each bin of σ, with the mode that auto chooses there."""
    if modes is None:
        return
    names = [mode for mode in modes.bins[0].figures if mode != "base"]
    table = number_table("σ up to", "prompts", *names, "auto")
    table.title, table.title_justify = "Gain over base, and seconds for a prompt", "left"
    for each, chosen in zip(modes.bins, modes.fastest_modes(TOLERANCE), strict=True):
        measured = (each.figures.get(mode) for mode in names)
        cells = ("" if of is None else f"{of.gain:+.3f} {of.seconds:.3g} s" for of in measured)
        table.add_row(f"{each.highest:.3g}", str(each.prompts), *cells, chosen)
    Terminal().print(table)


def held_out_sentence(held_out: HeldOutScores, queries: int) -> str:
    """Return the scores on held-out queries as a sentence."""
    gain = held_out.gain
    return (
        f"{held_out.kind}, on {queries} held-out queries: {held_out.chosen.value:.3f}, nearest "
        f"neighbours {held_out.nearest.value:.3f}, difference {gain.value:+.3f} "
        f"({gain.low:+.3f} to {gain.high:+.3f})"
    )


def _kernel_table(result: RetrievalCalibration, index: int, kind: str) -> Table:
    """Return the scores of one kind of query: a row for each kernel, a column for each λ'."""
    scores = {
        (kernel_name(point.settings), point.settings.noise_variance): point.scores[index]
        for point in result.kernels
    }
    noises = sorted({noise for _, noise in scores})
    table = number_table("λ':", *(f"{noise:g}" for noise in noises))
    table.title, table.title_justify, table.title_style = kind, "left", ""
    for name in dict.fromkeys(name for name, _ in scores):
        cells = (scores.get((name, noise)) for noise in noises)
        table.add_row(name, *("" if score is None else f"{score:.3f}" for score in cells))
    table.add_row("nearest", f"{result.nearest[index]:.3f}")
    return table


def kernel_name(settings: KernelSettings) -> str:
    """Return the name of a kernel with its length scale."""
    return "linear" if settings.kernel == "linear" else f"rbf ℓ={settings.length_scale:g}"


def number_table(*headings: str) -> Table:
    """Return a table of names, in the first column, and numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _print_notes(console: Terminal, notes: tuple[str, ...]) -> None:
    for note in notes:
        console.print(f"note: {note}")


def _table(name: str, *more: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (name, *more, "% of base", "prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _add(table: Table, name: str, measured: Estimate | None, *more: str) -> None:
    """Add a line with a bar for the percentage, which may exceed 100 %."""
    if measured is None:
        table.add_row(name, *more, "not tried", "", "")
        return
    length = max(1, min(_LONGEST, round(_BAR * measured.percent_of_base / 100)))
    percent = f"{measured.percent_of_base:.1f}"
    if measured.prompts > 1:
        percent += f" ± {measured.standard_error:.1f}"
    table.add_row(name, *more, percent, str(measured.prompts), "▆" * length)
