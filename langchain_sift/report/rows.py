"""Define a row: the result of a method on a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langchain_sift.auto_mode import AUTO
from langchain_sift.config import MODES

BASE = "base"
"""The method without documents that all others are compared with."""

CHAIN = "chain"
"""The mode of a user's runnable that answers by itself."""

SELECTION = "selection"
"""The mode of a method that chooses documents and does nothing with them."""

DOCUMENT_MODES = (*(mode for mode in MODES if mode != BASE), AUTO)
"""The modes that use documents."""


def selection_of(method: str) -> str:
    """Return the name of a method without what the model does with the documents.

    It is "sift" for "sift", for "rag:sift", and for "both:sift:context_k=10".
    """
    mode, _, selection = method.partition(":")
    if mode not in DOCUMENT_MODES:
        return method
    options = selection.split(":")
    return ":".join(option for option in options if not option.startswith("context_k="))


@dataclass(frozen=True, slots=True)
class ChosenDocument:
    """A document that a method chose; the start of its text is in `Report.texts`."""

    id: str
    gain: float
    """Reduction of the posterior variance at the prompt; NaN if unknown."""

    posterior_variance: float
    """Posterior variance at the prompt after this document; NaN if unknown."""

    copies: int
    """Number of candidates with the same text, this document included."""


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a method, with its number of documents k, on a prompt under a protocol."""

    protocol: str
    prompt: str
    """Id of the prompt."""

    group: str
    """Group of the prompt, such as its domain."""

    method: str
    k: int = 0
    """Number of documents to choose; 0 for a method without documents."""

    source: str = ""
    """Source that the prompt was cut from; empty if unknown."""

    bits: float = math.nan
    """Negative log-likelihood of the scored text under the model, in bits."""

    bytes: int = 0
    """Length of the scored text in UTF-8."""

    tokens: int = 0
    """Length of the scored text in tokens."""

    answer: str | None = None
    """Generated answer; None if the protocol generates no answer."""

    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the answer by metric; higher is better."""

    seconds_retrieval: float = 0.0
    seconds_training: float = 0.0
    """Share of the training time; prompts that are trained together share it equally."""

    seconds_answering: float = 0.0
    """Share of the time for scoring and generation, as for training."""

    tokens_training: int = 0
    tokens_context: int = 0
    """Number of tokens before the scored text or the answer."""

    tokens_answer: int = 0
    peak_memory: int | None = None
    """Peak number of bytes that PyTorch allocated on the GPU; None without a GPU."""

    redundancy: float = math.nan
    """Mean over all choices but the first of the highest cosine with an earlier choice; 1 means
    that each choice repeats an earlier one."""

    chosen: tuple[ChosenDocument, ...] = ()
    """Chosen documents in the order of choice, repeats included."""

    used_indices: tuple[int, ...] = ()
    """Indices in `chosen` of the documents that were trained on, or that fitted the context."""

    sources: int | None = None
    """Number of different sources of the used documents; None if the documents name none."""

    prior_variance: float = math.nan
    judge_failure: str | None = None
    """Reason why the judge did not grade the answer; None if it did, or there is no judge."""

    failure: str | None = None
    """Reason for a missing result; None if the row has a result."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Key that is unique within a comparison: protocol, prompt, method and k."""
        return self.protocol, self.prompt, self.method, self.k

    @property
    def cluster(self) -> str:
        """Source of the prompt; prompts of the same source are one observation."""
        return self.source or self.prompt

    @property
    def seconds(self) -> float:
        """Seconds of retrieval, training and answering together."""
        return self.seconds_retrieval + self.seconds_training + self.seconds_answering

    @property
    def used(self) -> int:
        """Number of documents that were used, repeats counted."""
        return len(self.used_indices)

    @property
    def distinct(self) -> int:
        """Number of different documents that were used."""
        return len({self.chosen[index].id for index in self.used_indices})

    @property
    def posterior_std(self) -> float:
        """Posterior standard deviation σ at the prompt after the last choice; NaN if unknown."""
        if not self.chosen:
            return math.nan
        return math.sqrt(max(0.0, self.chosen[-1].posterior_variance))


def reason_of(error: BaseException) -> str:
    """Return the reason for a missing result: the name of an error, and its first line."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def in_order(
    rows: Iterable[Row],
    protocols: Sequence[str],
    prompts: Mapping[str, int],
    methods: Sequence[str],
) -> list[Row]:
    """Sort rows by protocol, prompt, method and k.

    Args:
        rows: The rows, in any order.
        protocols: All protocols, in order.
        prompts: Position of each prompt by its id; unknown prompts come last.
        methods: All methods, in order.
    """
    method_order = {name: position for position, name in enumerate(methods)}
    protocol_order = {name: position for position, name in enumerate(protocols)}
    return sorted(
        rows,
        key=lambda row: (
            protocol_order[row.protocol],
            prompts.get(row.prompt, len(prompts)),
            method_order[row.method],
            row.k,
        ),
    )


def plain(value: Any) -> Any:
    """Convert dataclasses, mappings, sequences and numbers to JSON values.

    NaN and infinity become None, because JSON has neither.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    return value if isinstance(value, str | int | bool | None) else str(value)
