"""Choose the mode of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_sift.auto_mode.table import ModeTable
from langchain_sift.config import Mode, adds_context

AUTO = "auto"
"""The mode that is chosen for each prompt."""

FAINT_GAIN = 0.01
"""`SelectionSettings.faint_gain` of the default settings."""

TOLERANCE = 0.01
"""A mode whose gain is at most this below the best one is as good, if it takes less time."""

_MOST_FAINT = 4
"""Without a table, documents count as telling nothing about a prompt if they explain no more of its
variance than as many faint ones, or this many, would."""


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
    *,
    faint_gain: float = FAINT_GAIN,
) -> ModeChoice:
    """Choose a mode for a prompt.

    With a table, the fastest mode of the prompt's bin whose gain is at most `TOLERANCE` below the
    best. Without one: the base model if the documents tell nothing about the prompt; RAG if all
    documents fit into the prompt; both if some do not, for what does not fit is learned; and
    fine-tuning if none does.

    Args:
        uncertainty: σ of the prompt given its documents, from 0 to 1. None means unknown.
        documents: Number of distinct documents.
        fitting: Number of those that the prompt has room for.
        table: What was measured. None means the rule without it.
        faint_gain: The share of the variance that a document with hardly anything to do with the
            prompt explains: `SelectionSettings.faint_gain` of the choice.
    """
    if documents == 0:
        return ModeChoice("base", "there is no document")
    if table is not None and uncertainty is not None:
        return _from_table(uncertainty, fitting, table)
    if uncertainty is not None and _tell_nothing(uncertainty, documents, faint_gain):
        return ModeChoice("base", f"the documents tell nothing about it: σ = {uncertainty:.3g}")
    if fitting == 0:
        return ModeChoice("ttft", "no document fits into the prompt")
    if fitting < documents:
        return ModeChoice("both", f"{fitting} of {documents} documents fit into the prompt")
    all_of_them = "the document fits" if documents == 1 else f"all {documents} documents fit"
    return ModeChoice("rag", f"{all_of_them} into the prompt")


def _tell_nothing(uncertainty: float, documents: int, faint_gain: float) -> bool:
    return 1 - uncertainty**2 <= min(documents, _MOST_FAINT) * faint_gain


def _from_table(uncertainty: float, fitting: int, table: ModeTable) -> ModeChoice:
    measured = table.bin_of(uncertainty)
    figures = {
        mode: of for mode, of in measured.figures.items() if fitting or not adds_context(mode)
    }
    best = max(of.gain for of in figures.values())
    enough = [mode for mode, of in figures.items() if of.gain >= best - TOLERANCE]
    mode = min(enough, key=lambda name: (figures[name].seconds, -figures[name].gain))
    chosen = figures[mode]
    return ModeChoice(
        mode,  # type: ignore[arg-type]
        f"gained {chosen.gain:.3g} in {chosen.seconds:.3g} s on {measured.prompts} prompts with "
        f"σ up to {measured.highest:.3g}",
    )
