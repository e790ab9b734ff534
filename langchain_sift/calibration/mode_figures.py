"""Make the table of `mode="auto"` from a comparison of all modes on held-out prompts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from langchain_sift.report.metrics import ACCURACY
from langchain_sift.report.report import Report
from langchain_sift.report.rows import BASE, Row

BITS = "bits"
"""The metric of the protocols that predict a text."""

_COMPLETE = "complete the run (compare --resume), or see the failures in its report"


def mode_table(
    rows: Iterable[Row],
    *,
    selection: str = "sift",
    context_k: int | None = None,
    metric: str = BITS,
) -> ModeTable:
    """Return the gain and the time of each mode, by the uncertainty about a prompt.

    The prompts are those that have a result of base and of each mode that has one for most prompts.

    Args:
        rows: Those of `compare` with "base" and the other modes with one selection, as in
            `Report.rows`, of one protocol and one number of documents.
        selection: The selection of the methods.
        context_k: Maximum number of documents in the prompt of the methods. None means all.
        metric: "bits", or a score of answers such as "f1", of which more is better.

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
    return table_of(measured)


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


@dataclass(frozen=True, slots=True)
class RunTable:
    """The table of a run of `compare`, and what the run has that the table lacks."""

    table: ModeTable
    notes: tuple[str, ...]
    """A sentence on each: methods with another limit of the documents in the prompt, modes without
    results, and prompts without results."""


def mode_table_of_run(path: Path) -> RunTable:
    """Return the table of a run folder of `compare`: of its largest k, by answers or by bits.

    Of several protocols, "qa" counts, with F1 or accuracy, whichever more rows have; or else the
    first. Of several limits of the documents in the prompt, the one that most modes were
    measured with counts. Of equally many, no limit, or else the smallest one.

    Raises:
        ArgumentError: If the folder holds no run, or as `mode_table`.
    """
    report = read_report(path)
    protocols = report.protocols
    protocol = "qa" if "qa" in protocols else next(iter(protocols), "")
    rows = [row for row in report.rows if row.protocol == protocol]
    k = max((row.k for row in rows), default=0)
    chosen = [row for row in rows if row.method == BASE or row.k == k]
    limits = _limits_of({row.method for row in chosen})
    context_k = _most_measured(limits.values())
    metric = _metric_of(protocol, chosen)
    if not any(math.isfinite(_value(row, metric)) for row in chosen):
        raise ArgumentError(
            f"no prompt of {path} has a score: give each question its answer, or compare texts "
            "(--protocol document)"
        )
    table = mode_table(chosen, context_k=context_k, metric=metric)
    measured_with = _settings_of(report.settings, table, k)
    if measured_with is not None:
        measured_with = replace(measured_with, context_k=context_k)
    notes = (
        *_other_limits(limits, context_k),
        *_missing_modes(report, table, context_k),
        *_missing_prompts(report, chosen, table, metric),
    )
    return RunTable(replace(table, measured_with=measured_with), notes)


def _metric_of(protocol: str, rows: Sequence[Row]) -> str:
    """Return the metric that most rows have: texts have bits, answers F1, and choices accuracy."""
    if protocol != "qa":
        return BITS
    return max(("f1", ACCURACY), key=lambda metric: sum(metric in row.scores for row in rows))


def _other_limits(
    limits: Mapping[str, tuple[str, int | None]], context_k: int | None
) -> Iterator[str]:
    modes = {mode for mode, limit in limits.values() if limit == context_k}
    if left_out := sorted(name for name, (mode, _) in limits.items() if mode not in modes):
        yield (
            f"the table of modes has no place for {', '.join(left_out)}: measure RAG and both with "
            "the same context_k"
        )


def _missing_modes(report: Report, table: ModeTable, context_k: int | None) -> Iterator[str]:
    asked = report.settings.get("methods")
    listed = asked if isinstance(asked, list) else []
    known = table.bins[0].figures
    missing = [_method(mode, "sift", context_k) for mode in MODES if mode not in known]
    if missing := [name for name in missing if name in listed]:
        yield (
            f"the table of modes lacks {', '.join(missing)}, because half of the prompts or more "
            f"have no result of it: {_COMPLETE}"
        )


def _missing_prompts(
    report: Report, chosen: Sequence[Row], table: ModeTable, metric: str
) -> Iterator[str]:
    excluded = report.leaks.keys() if report.leaks_excluded else set()
    prompts = {*(report.prompt_texts or (row.prompt for row in report.rows))} - excluded
    base = [row for row in chosen if row.method == BASE and row.failure is None]
    without = sum(not math.isfinite(_value(row, metric)) for row in base)
    if without:
        yield (
            f"{without} of {len(prompts)} prompts have no {metric}, and do not count in the table "
            "of modes: compare on prompts of one kind, questions with their answers"
        )
    counted = sum(each.prompts for each in table.bins)
    if lacking := len(prompts) - without - counted:
        yield (
            f"{lacking} of {len(prompts)} prompts lack the result of a mode, and do not count in "
            f"the table of modes: {_COMPLETE}"
        )


def _limits_of(methods: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """Return the mode and `context_k` of SIFT's methods that put documents into the prompt."""
    found = {name: re.fullmatch(r"(rag|both):sift(?::context_k=(\d+))?", name) for name in methods}
    return {
        name: (match[1], int(match[2]) if match[2] else None)
        for name, match in found.items()
        if match
    }


def _most_measured(limits: Iterable[tuple[str, int | None]]) -> int | None:
    """Return the limit that most modes were measured with; of equal ones none, or the smallest."""
    counts = Counter(limit for _, limit in limits)
    numbers = sorted(limit for limit in counts if limit is not None)
    return max([None, *numbers], key=counts.__getitem__)


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
