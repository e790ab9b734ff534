"""Make the table of `mode="auto"` from a comparison of all modes on held-out prompts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from langchain_sift.auto_mode import (
    ModeFigures,
    ModeTable,
    PromptFigures,
    TableSettings,
    table_of,
)
from langchain_sift.comparison.run_folder import read_report
from langchain_sift.config import MODES, Mode, adds_context, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import BASE, Row

BITS = "bits"
"""The metric of the protocols that predict a text."""


def mode_table(
    rows: Iterable[Row],
    *,
    selection: str = "sift",
    context_k: int | None = None,
    metric: str = BITS,
    bins: int = 2,
) -> ModeTable:
    """Return the gain and the time of each mode, by the uncertainty about a prompt.

    The prompts are those that have a result of base and of each mode that has one for most prompts.

    Args:
        rows: Those of `compare` with "base" and the other modes with one selection, as in
            `Report.rows`, of one protocol and one number of documents.
        selection: The selection of the methods.
        context_k: Maximum number of documents in the prompt of the methods. None means all.
        metric: "bits", or a score of answers such as "f1", of which more is better.
        bins: Maximum number of bins.

    Raises:
        ArgumentError: If a prompt has several rows of a method, no prompt was measured with base
            and another mode, no mode differs from base, or the uncertainties are unknown.
    """
    by_prompt: dict[str, dict[Mode, Row]] = {}
    names = {_method(mode, selection, context_k): mode for mode in MODES}
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
        for of in _complete(by_prompt.values())
    ]
    if not measured:
        raise ArgumentError(
            f"no prompt was measured with base and another mode with {selection!r} in {metric!r}: "
            f"compare the methods {', '.join(names)}"
        )
    if not any(of.gain for prompt in measured for of in prompt.figures.values()):
        raise ArgumentError(
            f"all modes have the {metric} of base on each of {len(measured)} prompts: their table "
            "would choose base always; compare on prompts, or with a model, on which they differ"
        )
    return table_of(measured, bins=bins)


def _method(mode: Mode, selection: str, context_k: int | None) -> str:
    """Return the name of a mode's method."""
    if mode == BASE:
        return BASE
    return f"{mode}:{selection}{_suffix(context_k) if adds_context(mode) else ''}"


def _suffix(context_k: int | None) -> str:
    return "" if context_k is None else f":context_k={context_k}"


def _complete(prompts: Iterable[dict[Mode, Row]]) -> list[dict[Mode, Row]]:
    """Return the prompts with base and with all modes that most of them have.

    A mode that failed on a prompt costs this prompt, and one that failed on most of them the mode.
    """
    with_base = [of for of in prompts if BASE in of]
    counts = Counter(mode for of in with_base for mode in of)
    modes: list[Mode] = [mode for mode in MODES if 2 * counts[mode] > len(with_base)]
    if len(modes) < 2:
        return []
    return [{mode: of[mode] for mode in modes} for of in with_base if of.keys() >= {*modes}]


def mode_table_of_run(path: Path) -> ModeTable:
    """Return the table of a run folder of `compare`: of its largest k, by answers or by bits.

    Of several protocols, "qa" counts, with its F1, or else the first. Of several limits of the
    documents in the prompt, the one that most modes were measured with counts. Of equally many, no
    limit, or else the smallest one.

    Raises:
        ArgumentError: If the folder holds no run, or as `mode_table`.
    """
    report = read_report(path)
    rows = report.rows
    protocols = [row.protocol for row in rows]
    protocol = "qa" if "qa" in protocols else next(iter(protocols), "")
    counts = [row.k for row in rows if row.protocol == protocol]
    chosen = [
        row
        for row in rows
        if row.protocol == protocol and (row.method == BASE or row.k == max(counts))
    ]
    context_k = _context_k_of({row.method for row in chosen})
    table = mode_table(chosen, context_k=context_k, metric="f1" if protocol == "qa" else BITS)
    measured_with = _settings_of(report.settings, table, max(counts))
    if measured_with is not None:
        measured_with = replace(measured_with, context_k=context_k)
    return replace(table, measured_with=measured_with)


def methods_left_out(methods: Collection[str]) -> tuple[str, ...]:
    """Return the methods of a run whose mode its table lacks, as it has another limit."""
    context_k = _context_k_of(methods)
    found = []
    for method in methods:
        mode = re.fullmatch(r"(rag|both):sift(:context_k=\d+)?", method)
        if mode and f"{mode[1]}:sift{_suffix(context_k)}" not in methods:
            found.append(method)
    return tuple(found)


def _context_k_of(methods: Collection[str]) -> int | None:
    """Return the maximum number of documents in the prompt that most modes were measured with."""
    found = (re.fullmatch(r"\w+:sift:context_k=(\d+)", method) for method in methods)
    known = [None, *sorted({int(limit[1]) for limit in found if limit})]

    def measured(context_k: int | None) -> int:
        return sum(_method(mode, "sift", context_k) in methods for mode in MODES)

    return max(known, key=measured)  # of equal ones the first


def _settings_of(settings: Mapping[str, object], table: ModeTable, k: int) -> TableSettings | None:
    """Return the settings that the uncertainties of a run belong to; None if it names none."""
    names = ("kernel", "length_scale", "noise_variance")
    if not all(name in settings for name in names):
        return None
    # Where fine-tuning has settings of its own, they are written beside those of RAG.
    prefix = "training_" if any(map(fine_tunes, table.bins[0].figures)) else ""
    values = {name: settings.get(prefix + name, settings[name]) for name in names}
    model = settings.get("model")
    return TableSettings.of({**values, "k": k}, None if model is None else str(model))


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
