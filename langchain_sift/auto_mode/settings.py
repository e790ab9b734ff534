"""Keep the settings that a table of modes was measured with, and tell when others are in use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_sift.checks import check_integer, check_positive, check_string


@dataclass(frozen=True, slots=True)
class TableSettings:
    """The settings that σ and the gains of a table depend on."""

    k: int | None
    """Number of documents for a prompt. None means that it is not fixed."""

    noise_variance: float
    """λ' of SIFT."""

    kernel: str = "linear"
    """"linear" or "rbf"."""

    length_scale: float | None = None
    """ℓ of "rbf". None with another kernel."""

    model: str | None = None
    """Name of the model. None means that it is not known."""

    context_k: int | None = None
    """Maximum number of documents in the prompt. None means as many as fit."""

    def __post_init__(self) -> None:
        """Check the values, and drop ℓ if the kernel has none.

        Raises:
            ArgumentError: If a value is out of range or has another type.
        """
        check_string("kernel", self.kernel)
        check_string("model", self.model, optional=True)
        check_integer("k", self.k, 1, optional=True)
        check_integer("context_k", self.context_k, 1, optional=True)
        check_positive("noise_variance", self.noise_variance)
        check_positive("length_scale", self.length_scale, optional=True)
        if self.kernel != "rbf":
            object.__setattr__(self, "length_scale", None)

    @classmethod
    def of(
        cls,
        selection: Mapping[str, object],
        model: str | None = None,
        context_k: int | None = None,
    ) -> TableSettings:
        """Return the settings of a choice of documents.

        Args:
            selection: The values of fields of `CalibratedSelection`, by name.
            model: Name of the model.
            context_k: Maximum number of documents in the prompt.
        """
        names = ("k", "noise_variance", "kernel", "length_scale")
        chosen = {name: selection[name] for name in names if name in selection}
        return cls(**chosen, model=model, context_k=context_k)  # type: ignore[arg-type]

    def note_on(self, used: TableSettings) -> str | None:
        """Return a sentence on the differences of other settings; None if there are none.

        Args:
            used: The settings that the table is used with.
        """
        different = [
            (f"{label} = {_shown(ours)}", f"{label} = {_shown(theirs)}")
            for label, ours, theirs in (
                ("k", self.k, used.k),
                ("kernel", self.kernel, used.kernel),
                ("ℓ", self.length_scale, used.length_scale),
                ("λ'", self.noise_variance, used.noise_variance),
                ("model", self.model, used.model),
            )
            if ours is not None and theirs is not None and not _equal(ours, theirs)
        ]
        if self.context_k != used.context_k and self._limit != used._limit:
            different.append((_shown_limit(self.context_k), _shown_limit(used.context_k)))
        if not different:
            return None
        measured, others = (", ".join(values) for values in zip(*different, strict=True))
        return (
            f"the table of modes was measured with {measured}, and the settings here are {others}: "
            "measure the modes again, or use the settings of the table: auto may choose worse modes"
        )

    @property
    def _limit(self) -> int | None:
        """Return `context_k`, or None if there are no more documents than that."""
        has_none = self.context_k is None or (self.k is not None and self.context_k >= self.k)
        return None if has_none else self.context_k


def _shown_limit(context_k: int | None) -> str:
    return "no context_k" if context_k is None else f"context_k = {context_k}"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _equal(one: float | str, other: float | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=1e-6)
