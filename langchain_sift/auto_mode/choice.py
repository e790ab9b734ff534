"""Choose the mode of one prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from langchain_sift.auto_mode.table import ModeTable
from langchain_sift.config import MODES, Mode, adds_context

AUTO = "auto"
"""The mode that is chosen for each prompt."""

UNRELATED_GAIN = 0.01
"""`SelectionSettings.unrelated_gain` of the default settings."""

TOLERANCE = 0.01
"""Modes whose mean gain is at most this below that of the best mode are good enough."""

_MOST_UNRELATED = 4
"""Without a table, n documents count as telling nothing about a prompt if they explain no more of
its variance than n unrelated documents would, or this many if n is larger."""


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """The mode of one prompt, and why."""

    mode: Mode
    reason: str


def choose_mode(
    uncertainty: float | None,
    documents: int,
    fitting: int,
    table: ModeTable | None = None,
    unrelated_gain: float = UNRELATED_GAIN,
) -> ModeChoice:
    """Choose a mode for a prompt.

    With a table, this is the mode of the prompt's bin: of the choices of one mode up to some σ and
    one above it, whose mean gain is at most `TOLERANCE` below that of the best single mode, the
    fastest (`ModeTable.fastest_modes`).
    Without one, it is the base model if the documents tell nothing about the prompt; RAG if all
    documents fit into the prompt; both if only some fit, so that the others are learned; and
    fine-tuning if none fits. The rule without a table was not measured. It is also used if the
    uncertainty is unknown, and the reason then says so.

    Args:
        uncertainty: σ of the prompt given its documents, from 0 to 1. None means unknown.
        documents: Number of distinct documents.
        fitting: Number of those that the prompt has room for.
        table: The gains and times measured on held-out prompts. None means the rule without it.
        unrelated_gain: The share of the variance that a hardly related document explains:
            `SelectionSettings.unrelated_gain` of the choice.
    """
    if documents == 0:
        return ModeChoice("base", "there is no document")
    if table is not None and uncertainty is not None:
        return _from_table(uncertainty, fitting, table)
    choice = _without_table(uncertainty, documents, fitting, unrelated_gain)
    if table is None:
        return choice
    reason = f"{choice.reason}; the retriever returns no gains, which the table of modes needs"
    return replace(choice, reason=reason)


def _without_table(
    uncertainty: float | None, documents: int, fitting: int, unrelated_gain: float
) -> ModeChoice:
    if uncertainty is not None and _tell_nothing(uncertainty, documents, unrelated_gain):
        return ModeChoice("base", f"the documents tell nothing about it: σ = {uncertainty:.3g}")
    if fitting == 0:
        return ModeChoice("ttft", "no document fits into the prompt")
    if fitting < documents:
        return ModeChoice("both", f"{fitting} of {documents} documents fit into the prompt")
    all_of_them = "the document fits" if documents == 1 else f"all {documents} documents fit"
    return ModeChoice("rag", f"{all_of_them} into the prompt")


def _tell_nothing(uncertainty: float, documents: int, unrelated_gain: float) -> bool:
    return 1 - uncertainty**2 <= min(documents, _MOST_UNRELATED) * unrelated_gain


def _from_table(uncertainty: float, fitting: int, table: ModeTable) -> ModeChoice:
    number = table.index_of(uncertainty)
    modes = [mode for mode in MODES if fitting or not adds_context(mode)]
    mode, measured = table.fastest_modes(TOLERANCE, modes)[number], table.bins[number]
    chosen = measured.figures[mode]
    beyond = ", none of them so uncertain" if uncertainty > measured.highest else ""
    return ModeChoice(
        mode,  # type: ignore[arg-type]
        f"σ = {uncertainty:.3g}; gained {chosen.gain:.3g} in {chosen.seconds:.3g} s on "
        f"{measured.prompts} prompts with σ up to {measured.highest:.3g}{beyond}",
    )
