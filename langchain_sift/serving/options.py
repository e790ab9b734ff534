"""Validate `ttft` in a request's body, the settings of one request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from chromadb.api.types import validate_where
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from langchain_sift.checks import check_integer, check_positive
from langchain_sift.config import Mode
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import LEAST_NOISE_VARIANCE
from langchain_sift.stores.adapters.chroma_filters import where

NEW_SESSION = "new"
"""The value of `ttft.session` that keeps the adapter of a request."""


def whole(value: object) -> object:
    """Return a float without a fraction as an integer: JSON of some clients knows no integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1, strict=True), BeforeValidator(whole)]
# Strict: True is not a number.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetrieverOptions(_Options):
    """Fields of `SIFTRetriever` that a request may set."""

    k: Annotated[int, Field(ge=1, le=1000, strict=True), BeforeValidator(whole)] | None = Field(
        default=None, description="Number of documents to retrieve."
    )
    fetch_k: Annotated[int, Field(ge=1, le=10_000, strict=True), BeforeValidator(whole)] | None = (
        Field(default=None, description="Number of candidates to choose the documents from.")
    )
    kernel: Literal["linear", "rbf"] | None = Field(
        default=None, description='SIFT\'s kernel; "rbf" takes dissimilar texts for unrelated.'
    )
    length_scale: Positive | None = Field(
        default=None, description='Length scale of the kernel "rbf".'
    )
    noise_variance: (
        Annotated[float, Field(ge=LEAST_NOISE_VARIANCE, allow_inf_nan=False, strict=True)] | None
    ) = Field(default=None, description="SIFT's noise variance λ'.")
    stopping_alpha: Positive | None = Field(
        default=None,
        description="SIFT's α for adaptive stopping: easy prompts get fewer documents.",
    )


class TrainingLimits(_Options):
    """Limits in `FineTuneConfig` that a request may only lower."""

    max_documents: Count | None = Field(
        default=None,
        description="Maximum number of documents to train on; at most the server's maximum.",
    )

    max_train_tokens: Count | None = Field(
        default=None,
        description="Maximum number of training tokens; at most the server's maximum.",
    )
    max_train_seconds: Positive | None = Field(
        default=None,
        description="Seconds after which no gradient step begins; at most the server's maximum.",
    )


class FineTuneOptions(TrainingLimits):
    """Fields of `FineTuneConfig` that a request may set."""

    objective: Literal["text", "answer", "distill"] | None = Field(
        default=None,
        description="Loss: on all of the text; on the answers of documents that are questions or "
        "conversations; or with the base model and the documents in its context as the teacher.",
    )
    learning_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] | None = (
        Field(default=None, description="Learning rate of AdamW.")
    )
    steps_per_document: (
        Annotated[int, Field(ge=1, le=16, strict=True), BeforeValidator(whole)] | None
    ) = Field(default=None, description="Number of gradient steps on each document.")
    min_gain: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] | None = Field(
        default=None,
        description="The base model answers if the documents' summed SIFT gain is lower.",
    )


class LearningOptions(RetrieverOptions, FineTuneOptions):
    """Settings of one retrieval and training; by default those that the server was started with."""

    filter: dict[str, object] | None = Field(
        default=None,
        description="A `where` filter of Chroma, applied in addition to the tenant's filter.",
    )
    timeout: Positive | None = Field(
        default=None, description="Seconds for the whole request; at most the server's timeout."
    )

    @field_validator("filter")
    @classmethod
    def _check_filter(cls, value: dict[str, object] | None) -> dict[str, object] | None:
        """Check a filter with Chroma's client before the store is queried."""
        if value:
            _check_size(value)
            validate_where(where(value))  # type: ignore[arg-type]
            _check_values(value)
        return value or None

    def chosen(self, group: type[BaseModel]) -> dict[str, object]:
        """Return the options of a group that the request sets."""
        return self.model_dump(include={*group.model_fields}, exclude_none=True)


class TTFTOptions(LearningOptions):
    """Settings of one request; by default those that the server was started with."""

    mode: Literal[Mode, "auto"] | None = Field(
        default=None,
        description="base: the base model, without documents. rag: the documents are in the "
        "prompt. ttft: the model is fine-tuned on the documents. both: it is fine-tuned on the "
        "documents and they are in the prompt. auto: one of these, chosen for each prompt.",
    )
    context_k: Count | None = Field(
        default=None,
        description="Maximum number of documents in the prompt, the most informative of the k. "
        "Default: as many as fit.",
    )
    session: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None,
        description='"new": keep the adapter that this request trains; its id is in the response. '
        "An id: answer with that adapter, without training.",
    )

    @model_validator(mode="after")
    def _check_session(self) -> Self:
        """Reject options that would have no effect."""
        if self.session is None:
            return self
        if self.mode not in {None, "ttft", "both"}:
            raise ValueError(
                f"mode {self.mode!r} can answer without an adapter, and session needs one: set "
                'mode to "ttft" or "both"'
            )
        if self.session != NEW_SESSION:
            set_options = self.chosen(FineTuneOptions)
            if self.mode != "both":
                names = {*RetrieverOptions.model_fields, "filter"}
                set_options |= self.model_dump(include=names, exclude_none=True)
            for name in set_options:
                raise ValueError(
                    f"{name} has no effect on the answer of a session: leave it out, or set it "
                    "when the session learns"
                )
        return self


CEILINGS = (
    *(
        name
        for name in LearningOptions.model_fields
        if name not in {"kernel", "filter", "objective"}
    ),
    "context_k",
    "max_tokens",
    "n",
    "prompts",
)
"""Options that are numbers; "prompts" is the number of prompts in a list."""

_MOST_CONDITIONS, _MOST_VALUES, _DEEPEST = 500, 10_000, 32  # of a filter
_COUNTS = {"k", "fetch_k", "steps_per_document", "max_documents", "max_train_tokens"}
_COUNTS |= {"context_k", "max_tokens", "n", "prompts"}


def check_ceilings(ceilings: Mapping[str, float], defaults: Mapping[str, object]) -> None:
    """Check the names and the values of ceilings, and that no default is above its ceiling.

    Args:
        ceilings: Highest values that a request may set, by the names of options.
        defaults: The server's values of options; None where it sets none.

    Raises:
        ArgumentError: If an option is unknown or no number, a ceiling is out of range, or a default
            is above its ceiling.
    """
    for name, most in ceilings.items():
        if name not in CEILINGS:
            raise ArgumentError(f"no ceiling for {name!r}: use one of {sorted(CEILINGS)}")
        if name in _COUNTS:
            check_integer(f"the ceiling of {name}", whole(most), 1)
        check_positive(f"the ceiling of {name}", most)
        default = defaults.get(name)
        if isinstance(default, int | float) and default > most:
            raise ArgumentError(
                f"{name} is {default:g}, above its ceiling {most:g}: lower {name}, or raise the "
                "ceiling"
            )


def _check_size(condition: object) -> None:
    """Reject a filter that is too large for Chroma, whose process would end.

    SQLite takes expressions of depth 1000 and 32,766 values. A condition may add one to the depth,
    and Chroma passes a number twice.
    """
    parts, conditions, values = [condition], 0, 0
    for _ in range(_DEEPEST):
        conditions += sum(isinstance(part, dict) for part in parts)
        values += sum(not isinstance(part, dict | list) for part in parts)
        parts = [inner for part in parts for inner in _inner(part)]
    if parts or conditions > _MOST_CONDITIONS or values > _MOST_VALUES:
        raise ValueError(
            f"a filter may have {_MOST_CONDITIONS} conditions and {_MOST_VALUES} values, and be "
            f"nested {_DEEPEST} deep: use $in for several values, or a metadata key for a group"
        )


def _inner(part: object) -> Iterable[object]:
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, list) else ()


def _check_values(condition: object) -> None:
    """Reject values that Chroma's protocol cannot carry."""
    if isinstance(condition, dict):
        condition = [*condition, *condition.values()]
    if isinstance(condition, list):
        for part in condition:
            _check_values(part)
    elif isinstance(condition, int) and not -(1 << 63) <= condition < 1 << 63:
        raise ValueError("an integer in a filter must fit in 64 bits")
    elif isinstance(condition, float) and not abs(condition) < float("inf"):
        raise ValueError("a number in a filter must be finite")
    elif isinstance(condition, str):
        condition.encode()  # raises ValueError for a lone surrogate
