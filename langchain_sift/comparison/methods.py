"""Parse the names of methods: a mode to use documents, and a selection to choose them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from langchain_sift.checks import check_choice
from langchain_sift.config import MODES, adds_context, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import BASE, CHAIN, DOCUMENT_MODES, SELECTION
from langchain_sift.selection import SELECTORS
from langchain_sift.selection.settings import KERNELS

SEARCHES = ("nearest", "residual", "exhaustive")
_NUMBERS = ("noise_variance", "length_scale", "stopping_alpha")

# Repeated documents are part of these methods: each repeat is one more gradient step.
_REPEATING = ("sift", "uncertainty", "nearest-repeated", "hull")


@dataclass(frozen=True, slots=True)
class Method:
    """A mode, and a way to choose documents."""

    name: str
    mode: str
    """One of `MODES`; "chain": a runnable of the user's that answers; or "selection": documents
    are chosen and nothing is done with them."""

    selection: str = ""
    """A selector of this package, or a retriever of the user's. Empty if no document is chosen."""

    search: str = "nearest"
    """Search for the candidates of SIFT, one of `SEARCHES`."""

    noise_variance: float | None = None
    """λ'. None means that of the comparison."""

    kernel: str | None = None
    """"linear" or "rbf". None means that of the comparison."""

    length_scale: float | None = None
    """ℓ of "rbf". None means that of the comparison."""

    stopping_alpha: float | None = None
    """α of adaptive stopping. None means no stopping."""

    @property
    def fine_tunes(self) -> bool:
        """True if the model is fine-tuned on the documents."""
        return fine_tunes(self.mode)

    @property
    def adds_context(self) -> bool:
        """True if the documents are put before the prompt."""
        return adds_context(self.mode)

    @property
    def repeats(self) -> bool:
        """True if a document may be chosen again, for one more gradient step."""
        return self.fine_tunes and self.selection in _REPEATING

    @property
    def family(self) -> Method:
        """The same method without adaptive stopping, and without a name."""
        return replace(self, name="", stopping_alpha=None)

    @property
    def nested(self) -> bool:
        """True if the choice for a smaller k is the beginning of the choice for a larger one."""
        return self.selection != "hull"


def parse_methods(
    names: Sequence[str],
    *,
    retrievers: Collection[str] = (),
    chains: Collection[str] = (),
    base: bool = True,
) -> tuple[Method, ...]:
    """Return the methods of these names, each once, the base model first.

    Args:
        names: "base"; "rag:", "ttft:" or "both:" and a selection; a selection alone; or the name
            of a chain. "sift" may be followed by "residual" or "exhaustive", and each selection
            by "kernel=NAME", "length_scale=NUMBER", "noise_variance=NUMBER" and
            "stopping_alpha=NUMBER", all separated by colons.
        retrievers: Names of the user's retrievers, which are selections as well.
        chains: Names of the user's chains, which are methods.
        base: If True, the base model is added.

    Raises:
        ArgumentError: If a method does not exist; the message names similar ones. If a runnable
            has the name of a method or of another.
    """
    for name in (*retrievers, *chains):
        if name in {*MODES, *SELECTORS} or not name.strip() or ":" in name or "," in name:
            raise ArgumentError(
                f"{name!r} cannot name a runnable: use a word without ':' and ',' that names no "
                "method"
            )
    for name in {*retrievers} & {*chains}:
        raise ArgumentError(f"{name!r} names both a retriever and a chain: rename one of them")
    return tuple(
        _parse_method(name, [*SELECTORS, *retrievers], chains)
        for name in dict.fromkeys((BASE, *names) if base else names)
    )


def _parse_method(name: str, selections: Sequence[str], chains: Collection[str]) -> Method:
    if name == BASE:
        return Method(BASE, BASE)
    if name in chains:
        return Method(name, CHAIN)
    mode, _, rest = name.partition(":")
    if mode in selections:
        mode, rest = SELECTION, name
    selection, *options = rest.split(":")
    if mode not in {*DOCUMENT_MODES, SELECTION} or selection not in selections:
        raise ArgumentError(_unknown(name, selections, chains))
    search = "nearest"
    if options and selection == "sift" and options[0] in SEARCHES:
        search = options.pop(0)
    method = Method(name, mode, selection, search)
    for option in options:
        method = _with_option(method, option)
    if search == "residual" and method.kernel not in {None, "linear"}:
        raise ArgumentError(f"{name!r}: the search 'residual' needs the kernel 'linear'")
    return method


def _unknown(name: str, selections: Sequence[str], chains: Collection[str]) -> str:
    methods = [f"{mode}:{selection}" for mode in DOCUMENT_MODES for selection in selections]
    known = [BASE, *chains, *methods, *selections]
    alike = get_close_matches(name, known, n=3)
    if alike:
        return f"there is no method {name!r}: did you mean {' or '.join(alike)}?"
    return f"there is no method {name!r}: use some of {', '.join(known)}"


def _with_option(method: Method, option: str) -> Method:
    """Return the method with an option, such as "kernel=rbf"."""
    key, _, value = option.partition("=")
    is_ours, number = method.selection in SELECTORS, _number(value)
    if is_ours and key == "kernel":
        check_choice(f"{method.name!r}: kernel", value, KERNELS)
        return replace(method, kernel=value)
    if is_ours and 0 < number < math.inf:
        if key == "length_scale":
            return replace(method, length_scale=number)
        if key == "noise_variance":
            return replace(method, noise_variance=number)
        if key == "stopping_alpha":
            return replace(method, stopping_alpha=number)
    allowed = " and ".join(["kernel=NAME", *(f"{key}=NUMBER" for key in _NUMBERS)])
    if method.selection == "sift":
        allowed += f", and before them one of {', '.join(SEARCHES)}"
    raise ArgumentError(
        f"{method.name!r}: {option!r} is no option of {method.selection}: use {allowed}"
    )


def _number(text: str) -> float:
    """Return the number; NaN if the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
