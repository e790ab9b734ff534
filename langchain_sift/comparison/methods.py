"""The methods by their names: a way to use documents, and a way to choose them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import BASE, CHAIN, DOCUMENT_MODES
from langchain_sift.selection import SELECTORS

SEARCHES = ("nearest", "residual", "exhaustive")
_OPTIONS = ("noise_variance", "stopping_alpha")

# For these the paper's choice is with repeats: one more gradient step on the same document.
_REPEATING = ("sift", "uncertainty", "nearest-repeated", "hull")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer: a mode, and how it chooses documents."""

    name: str
    mode: str
    """"base", "rag", "ttft", "both", or "chain": a runnable of the user's that answers."""

    selection: str = ""
    """A selector of this package, or a retriever of the user's."""

    search: str = "nearest"
    """Which candidates SIFT chooses from."""

    noise_variance: float | None = None
    """λ' of its own."""

    stopping_alpha: float | None = None
    """Where it stops choosing by itself."""

    @property
    def learns(self) -> bool:
        """Whether the model is fine-tuned."""
        return self.mode in {"ttft", "both"}

    @property
    def reads(self) -> bool:
        """Whether documents stand before the prompt."""
        return self.mode in {"rag", "both"}

    @property
    def repeats(self) -> bool:
        """Whether a document may be chosen again: where it is one more gradient step."""
        return self.learns and self.selection in _REPEATING

    @property
    def family(self) -> Method:
        """The method that goes on where this one stops by itself."""
        return replace(self, name="", stopping_alpha=None)

    @property
    def nested(self) -> bool:
        """Whether what it chooses for a smaller k is the beginning of what it chooses for k."""
        return self.selection != "hull"


def parse_methods(
    names: Sequence[str], *, retrievers: Collection[str] = (), chains: Collection[str] = ()
) -> tuple[Method, ...]:
    """Return the methods by their names, each once, the base model first.

    Args:
        names: "base"; "rag:", "ttft:" or "both:" and a selection; or the name of a chain. After
            "sift" may come "residual" or "exhaustive", and after each selection
            "noise_variance=NUMBER" and "stopping_alpha=NUMBER", all separated by colons.
        retrievers: Names of the user's, which are selections too.
        chains: Names of the user's, which are methods by themselves.

    Raises:
        ArgumentError: If there is no such method; the message names those that are alike.
    """
    for name in (*retrievers, *chains):
        if (
            name in {BASE, *DOCUMENT_MODES, *SELECTORS}
            or not name.strip()
            or ":" in name
            or "," in name
        ):
            raise ArgumentError(
                f"{name!r} cannot name a runnable: use a word without ':' that names no method"
            )
    return tuple(
        _parse_method(name, [*SELECTORS, *retrievers], chains)
        for name in dict.fromkeys((BASE, *names))
    )


def _parse_method(name: str, selections: Sequence[str], chains: Collection[str]) -> Method:
    if name == BASE:
        return Method(BASE, BASE)
    if name in chains:
        return Method(name, CHAIN)
    mode, _, rest = name.partition(":")
    selection, *options = rest.split(":")
    if mode not in DOCUMENT_MODES or selection not in selections:
        known = [BASE, *chains, *(f"{mode}:{one}" for mode in DOCUMENT_MODES for one in selections)]
        alike = get_close_matches(name, known, n=3) or known
        msg = f"there is no method {name!r}: did you mean {' or '.join(alike)}?"
        if alike is known:
            msg = f"there is no method {name!r}: use some of {', '.join(known)}"
        raise ArgumentError(msg)
    search = "nearest"
    if options and selection == "sift" and options[0] in SEARCHES:
        search = options.pop(0)
    return Method(name, mode, selection, search, **_numbers(name, options, selection))


def _numbers(name: str, options: Sequence[str], selection: str) -> dict[str, float]:
    numbers = {}
    for option in options:
        key, _, value = option.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if key not in _OPTIONS or selection not in SELECTORS or not 0 < number < float("inf"):
            allowed = " and ".join(f"{key}=NUMBER" for key in _OPTIONS)
            msg = f"{name!r}: {option!r} is no option of {selection}: there are {allowed}"
            if selection == "sift":
                msg += f", and before them one of {', '.join(SEARCHES)}"
            raise ArgumentError(msg)
        numbers[key] = number
    return numbers
