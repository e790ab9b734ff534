"""Combine the options of a request with the settings of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from langchain_core.documents import Document

from langchain_sift.config import FineTuneConfig
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.options import (
    FineTuneOptions,
    RetrieverOptions,
    TrainingLimits,
    TTFTOptions,
)
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.ttft import Reservation

_MIN_TIMEOUT = 1e-3  # a timeout must be positive


@dataclass(frozen=True, slots=True)
class Generation:
    """Fields of the model that a request sets; None means the model's default."""

    max_tokens: int | None
    temperature: float | None
    seed: int | None
    stop: list[str] | None

    @classmethod
    def of(cls, body: ChatCompletionRequest | CompletionRequest) -> Self:
        """Return the fields that a request sets."""
        max_tokens = body.max_tokens
        if isinstance(body, ChatCompletionRequest):
            max_tokens = body.max_completion_tokens or max_tokens
        return cls(
            max_tokens=max_tokens,
            temperature=body.temperature,
            seed=None if body.seed is None else body.seed % (1 << 63),
            stop=[body.stop] if isinstance(body.stop, str) else body.stop or None,
        )


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """The settings of one request, within the limits of the server."""

    mode: str
    retriever: SIFTRetriever
    """The tenant's retriever, with the request's options."""

    filter: Mapping[str, object] | None
    """Filter in addition to the tenant's. None means no further filter."""

    fine_tuning: FineTuneOptions
    generation: Generation
    timeout: float
    """Seconds for the whole request."""

    @classmethod
    def of(
        cls,
        body: ChatCompletionRequest | CompletionRequest,
        server: ServingSettings,
        retriever: SIFTRetriever,
    ) -> Self:
        """Return the settings of a request.

        Args:
            body: The request.
            server: Defaults and limits.
            retriever: The retriever of the request's tenant.
        """
        options = body.ttft or TTFTOptions()
        return cls(
            mode=options.mode or server.mode,
            retriever=retriever.model_copy(update=options.chosen(RetrieverOptions)),
            filter=options.filter,
            fine_tuning=_within_limits(options, server.finetune),
            generation=Generation.of(body),
            timeout=min(options.timeout or server.timeout, server.timeout),
        )

    def call_arguments(
        self,
        reservation: Reservation | None,
        documents: Sequence[Document] | None,
        *,
        elapsed: float = 0.0,
    ) -> dict[str, Any]:
        """Return the keyword arguments of a call of the model.

        Args:
            reservation: The request's reservation in the engine.
            documents: Documents to train on. None means that the model retrieves them.
            elapsed: Seconds of the timeout that have passed.
        """
        source: dict[str, object]
        if documents is None:
            source = {"retriever": self.retriever, "filter": self.filter}
        else:
            source = {"documents": documents}
        generation = asdict(self.generation)
        return {
            **source,
            **self.fine_tuning.model_dump(exclude_none=True),
            **{name: value for name, value in generation.items() if value is not None},
            "reservation": reservation,
            "timeout": max(self.timeout - elapsed, _MIN_TIMEOUT),
        }


def _within_limits(options: TTFTOptions, finetune: FineTuneConfig) -> FineTuneOptions:
    """Return the options, with limits that are at most the server's."""
    chosen = options.chosen(FineTuneOptions)
    for name in TrainingLimits.model_fields:
        limits = [getattr(options, name), getattr(finetune, name)]
        chosen[name] = min((limit for limit in limits if limit is not None), default=None)
    return FineTuneOptions.model_validate(chosen)
