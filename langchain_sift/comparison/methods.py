"""Parse the names of methods: a mode to use documents, and a selection to choose them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType
from typing import Any

from langchain_sift.auto_mode import AUTO
from langchain_sift.checks import check_choice, check_integer, number_or_nan, strings
from langchain_sift.comparison.diversification import DIVERSIFIERS, check_installed
from langchain_sift.config import KERNELS, MODES, adds_context, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import BASE, CHAIN, DOCUMENT_MODES, SELECTION
from langchain_sift.selection import SELECTORS, Selector
from langchain_sift.selection.settings import SelectionSettings

SEARCHES = ("nearest", "residual", "exhaustive")
_NUMBERS = ("length_scale", "noise_variance", "stopping_alpha")
_FRACTIONS = ("lambda_mult", "diversity")

OUR_SELECTORS: Mapping[str, Selector] = MappingProxyType({**SELECTORS, **DIVERSIFIERS})
"""The selectors by their names: those of this package, and those of its peer."""

# Repeated documents are part of these methods: each repeat is one more gradient step.
_REPEATING = ("nearest-repeated", "hull")
_REPLACE = "replace"
_CONTEXT_K = "context_k"
_ONE_SEARCH = f"one of {', '.join(SEARCHES)}"


@dataclass(frozen=True, slots=True)
class Method:
    """A mode, and a way to choose documents."""

    name: str
    mode: str
    """One of `MODES`; "auto": one of them for each prompt; "chain": a runnable of the user's that
    answers; or "selection": documents are chosen and nothing is done with them."""

    selection: str = ""
    """One of `OUR_SELECTORS`, or a retriever of the user's. Empty if no document is chosen."""

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

    lambda_mult: float | None = None
    """λ of MMR, from 0 to 1. None means 0.5."""

    diversity: float | None = None
    """Diversity of pyversity's strategies, from 0 to 1. None means 0.5."""

    context_k: int | None = None
    """Maximum number of documents in the prompt. None means as many as fit."""

    replace: bool = False
    """True if SIFT may choose a document again, as in the paper, for one more gradient step."""

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
        return self.fine_tunes and (self.replace or self.selection in _REPEATING)

    @property
    def family(self) -> Method:
        """The same method without adaptive stopping, and without a name."""
        return replace(self, name="", stopping_alpha=None)

    @property
    def training(self) -> Method:
        """The same method without its name, and with or without context: what is trained on."""
        mode = "both" if self.fine_tunes else self.mode
        return replace(self, name="", mode=mode, context_k=None)

    @property
    def nested(self) -> bool:
        """True if the choice for a smaller k is the beginning of the choice for a larger one."""
        return self.selection != "hull" and self.selection not in DIVERSIFIERS

    @property
    def selector(self) -> Selector:
        """The function that chooses, with the options that other functions do not have."""
        selector = OUR_SELECTORS[self.selection]
        own: Any = {"lambda_mult": self.lambda_mult, "diversity": self.diversity}
        return partial(selector, **{key: value for key, value in own.items() if value is not None})


def parse_methods(
    names: Sequence[str],
    *,
    retrievers: Collection[str] = (),
    chains: Collection[str] = (),
    base: bool = True,
) -> tuple[Method, ...]:
    """Return the methods of these names, each once, the base model first.

    Args:
        names: "base"; "rag:", "ttft:", "both:" or "auto:" and a selection; a selection alone; or
            the name of a chain. "sift" may be followed by "residual" or "exhaustive", and by
            "replace", with which fine-tuning may train on a document again. Each selection may be
            followed by "kernel=NAME", "length_scale=NUMBER", "noise_variance=NUMBER" and
            "stopping_alpha=NUMBER", "mmr" by "lambda_mult=NUMBER", the strategies of pyversity by
            "diversity=NUMBER", and in the modes "rag", "both" and "auto" each by
            "context_k=NUMBER", the maximum number of documents in the prompt; all separated by
            colons.
        retrievers: Names of the user's retrievers, which are selections as well.
        chains: Names of the user's chains, which are methods.
        base: If True, the base model is added.

    Raises:
        ArgumentError: If `names` is no sequence of names, a method does not exist (the message
            names similar ones), or a runnable has the name of a method or of another.
    """
    for name in (*retrievers, *chains):
        if name in {*MODES, AUTO, *OUR_SELECTORS} or not name.strip() or ":" in name or "," in name:
            raise ArgumentError(
                f"{name!r} cannot name a runnable: use a word without ':' and ',' that names no "
                "method"
            )
    for name in {*retrievers} & {*chains}:
        raise ArgumentError(f"{name!r} names both a retriever and a chain: rename one of them")
    names = strings("methods", names)
    return tuple(
        _parse_method(name, [*OUR_SELECTORS, *retrievers], chains)
        for name in dict.fromkeys((BASE, *names) if base else names)
    )


def unused_runnables(
    methods: Sequence[Method], retrievers: Collection[str], chains: Collection[str]
) -> list[str]:
    """Return a note for each runnable that no method uses, with the cure."""
    used = {method.name if method.mode == CHAIN else method.selection for method in methods}
    cures = {name: f"'rag:{name}', or {name!r} for the retrieval alone," for name in retrievers}
    cures |= {name: repr(name) for name in chains}
    return [
        f"no method uses {name!r}: add {cure} to the methods"
        for name, cure in cures.items()
        if name not in used
    ]


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
    search, repeats = "nearest", False
    if options and selection == "sift" and options[0] in SEARCHES:
        search = options.pop(0)
    if options and selection == "sift" and fine_tunes(mode) and options[0] == _REPLACE:
        repeats = bool(options.pop(0))
    check_installed(selection)
    context_k = _pop_context_k(name, mode, options)
    kernel, numbers = _parse_options(name, mode, selection, options)
    if search == "residual" and kernel not in {None, "linear"}:
        raise ArgumentError(f"{name!r}: the search 'residual' needs the kernel 'linear'")
    return Method(
        name,
        mode,
        selection,
        search,
        kernel=kernel,
        context_k=context_k,
        replace=repeats,
        **numbers,
    )


def _unknown(name: str, selections: Sequence[str], chains: Collection[str]) -> str:
    methods = [f"{mode}:{selection}" for mode in DOCUMENT_MODES for selection in selections]
    known = [BASE, *chains, *methods, *selections]
    alike = get_close_matches(name, known, n=3)
    if alike:
        return f"there is no method {name!r}: did you mean {' or '.join(alike)}?"
    return f"there is no method {name!r}: use some of {', '.join(known)}"


def _parse_options(
    name: str, mode: str, selection: str, options: Sequence[str]
) -> tuple[str | None, dict[str, float]]:
    """Return the kernel, if it is set, and the numbers that are set."""
    kernel, numbers = None, {}
    for option in options:
        key, _, value = option.partition("=")
        number, allowed = number_or_nan(value), _options_of(selection)
        is_fraction = key in _FRACTIONS and 0 <= number <= 1
        if key == "kernel" and key in allowed:
            check_choice(f"{name!r}: kernel", value, KERNELS)
            kernel = value
        elif key in allowed and (is_fraction or (key in _NUMBERS and 0 < number < math.inf)):
            numbers[key] = number
        else:
            if adds_context(mode):
                allowed[_CONTEXT_K] = "NUMBER"
            hint = ", ".join(f"{key}={form}" for key, form in allowed.items()) or "none"
            if selection == "sift":
                hint += (
                    f", before them {_REPLACE} (ttft:, both: and auto:), and first {_ONE_SEARCH}"
                )
            raise ArgumentError(f"{name!r}: {option!r} is no option of {selection}: use {hint}")
    checked: dict[str, Any] = {key: number for key, number in numbers.items() if key in _NUMBERS}
    try:
        SelectionSettings(k=1, **checked)  # a number may be too small
    except ArgumentError as error:
        raise ArgumentError(f"{name!r}: {error}") from error
    return kernel, numbers


def _pop_context_k(name: str, mode: str, options: list[str]) -> int | None:
    """Remove the maximum number of documents in the prompt from the options, and return it."""
    found = next((option for option in options if option.startswith(f"{_CONTEXT_K}=")), None)
    if found is None:
        return None
    options.remove(found)
    value = found.partition("=")[2]
    if not adds_context(mode):
        raise ArgumentError(
            f"{name!r}: {_CONTEXT_K} has no effect without documents in the prompt, which only "
            "rag:, both: and auto: have: leave it out"
        )
    context_k = int(value) if value.isascii() and value.isdigit() else value
    check_integer(f"{name!r}: {_CONTEXT_K}", context_k, 1)
    return int(context_k)


def _options_of(selection: str) -> dict[str, str]:
    """Return the options of a selection, with the form of their values."""
    if selection not in OUR_SELECTORS:
        return {}
    options = {"kernel": "NAME", **dict.fromkeys(_NUMBERS, "NUMBER")}
    if selection == "mmr":
        options["lambda_mult"] = "0..1"
    if selection in DIVERSIFIERS:
        options["diversity"] = "0..1"
    return options
