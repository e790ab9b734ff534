"""Make the table of `mode="auto"` from a comparison of all modes on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from langchain_sift.auto_mode import ModeFigures, ModeTable, PromptFigures, table_of
from langchain_sift.comparison.run_folder import read_report
from langchain_sift.config import MODES, Mode
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import BASE, Row

BITS = "bits"
"""The metric of the protocols that predict a text."""


def mode_table(
    rows: Iterable[Row], *, selection: str = "sift", metric: str = BITS, bins: int = 2
) -> ModeTable:
    """Return the gain and the time of each mode, by the uncertainty about a prompt.

    Args:
        rows: Those of `compare` with "base" and the other modes with one selection, as in
            `Report.rows`, of one protocol and one number of documents.
        selection: The selection of the methods.
        metric: "bits", or a score of answers such as "f1", of which more is better.
        bins: Maximum number of bins.

    Raises:
        ArgumentError: If a prompt has several rows of a method, no prompt was measured with base
            and another mode, or the uncertainties are unknown.
    """
    by_prompt: dict[str, dict[Mode, Row]] = {}
    names: Mapping[str, Mode] = {
        mode if mode == BASE else f"{mode}:{selection}": mode for mode in MODES
    }
    for row in rows:
        mode = names.get(row.method)
        if mode is None or row.failure is not None or not math.isfinite(_value(row, metric)):
            continue
        of_prompt = by_prompt.setdefault(row.prompt, {})
        if mode in of_prompt:
            raise ArgumentError(
                f"{row.method} has several rows for a prompt: pass those of one protocol and one k"
            )
        of_prompt[mode] = row
    measured = [
        PromptFigures(_uncertainty(of.values()), _figures(of, metric))
        for of in by_prompt.values()
        if BASE in of and len(of) > 1
    ]
    if not measured:
        raise ArgumentError(
            f"no prompt was measured with base and another mode with {selection!r} in {metric!r}: "
            f"compare the methods {', '.join(names)}"
        )
    return table_of(measured, bins=bins)


def mode_table_of_run(path: Path) -> ModeTable:
    """Return the table of a run folder of `compare`: of its largest k, by answers or by bits.

    Of several protocols, "qa" counts, with its F1, or else the first.

    Raises:
        ArgumentError: If the folder holds no run, or as `mode_table`.
    """
    rows = read_report(path).rows
    protocols = [row.protocol for row in rows]
    protocol = "qa" if "qa" in protocols else next(iter(protocols), "")
    counts = [row.k for row in rows if row.protocol == protocol]
    chosen = [
        row
        for row in rows
        if row.protocol == protocol and (row.method == BASE or row.k == max(counts))
    ]
    return mode_table(chosen, metric="f1" if protocol == "qa" else BITS)


def _value(row: Row, metric: str) -> float:
    return row.bits if metric == BITS else row.scores.get(metric, math.nan)


def _figures(of: Mapping[Mode, Row], metric: str) -> dict[str, ModeFigures]:
    base = _value(of["base"], metric)
    figures: dict[str, ModeFigures] = {}
    for mode, row in of.items():
        value = _value(row, metric)
        gain = 1 - value / base if metric == BITS and base > 0 else value - base
        seconds = row.seconds_retrieval + row.seconds_training + row.seconds_answering
        figures[mode] = ModeFigures(gain, seconds)
    return figures


def _uncertainty(rows: Iterable[Row]) -> float:
    """Return σ of the prompt: of the modes with documents, that of the last in `MODES`.

    "auto" has the settings of fine-tuning, if both were calibrated.
    """
    by_order = sorted(rows, key=lambda row: MODES.index(_mode(row)), reverse=True)
    for row in by_order:
        if row.chosen and math.isfinite(row.chosen[-1].posterior_variance):
            return math.sqrt(max(0.0, row.chosen[-1].posterior_variance))
    return math.nan


def _mode(row: Row) -> Mode:
    name = row.method.partition(":")[0]
    return next(mode for mode in MODES if mode == name)
