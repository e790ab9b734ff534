"""Combine the options of a request with the settings of the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Self

from langchain_sift.auto_mode import AUTO, ModeTable
from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.language_models.call_settings import GENERATION_SETTINGS
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.options import (
    NEW_SESSION,
    FineTuneOptions,
    LearningOptions,
    RetrieverOptions,
    TrainingLimits,
    TTFTOptions,
)
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.ttft import Reservation


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """The settings of one request, within the limits of the server."""

    mode: str
    modes: ModeTable | None
    """The gain and the time of each mode, for the mode "auto"."""

    session: str | None
    """Id of the session that answers, or "new" to keep the adapter. None means neither."""

    retriever: SIFTRetriever
    """The tenant's retriever, with the request's options."""

    showing: SIFTRetriever | None
    """The retriever of RAG, for the mode "auto" if it chooses RAG and was calibrated with other
    settings. None means the documents that the mode "auto" has retrieved."""

    context_k: int | None
    """Maximum number of documents in the prompt. None means as many as fit."""

    filter: Mapping[str, object] | None
    """Filter in addition to the tenant's. None means no further filter."""

    fine_tuning: FineTuneOptions
    generation: Mapping[str, object]
    """Settings of the answer that the request sets."""

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
        mode = options.mode or _default_mode(options.session, server.mode)
        # The answer of a session retrieves only what it shows.
        retrieval = mode if options.session in {None, NEW_SESSION} else "rag"
        asked = {"n": body.n, "prompts": _prompts(body), "ttft.context_k": options.context_k}
        _check_ceilings(asked, server.ceilings)
        _check_context_k(options, mode)
        return replace(
            cls.of_learning(options, server, retriever, retrieval),
            mode=mode,
            session=options.session,
            context_k=server.context_limit(options.context_k),
            generation=_with_most_tokens(_generation(body), server),
        )

    @classmethod
    def of_learning(
        cls,
        options: LearningOptions,
        server: ServingSettings,
        retriever: SIFTRetriever,
        retrieval: str = "ttft",
    ) -> Self:
        """Return the settings of a training without an answer.

        Args:
            options: Those of the request.
            server: Defaults and limits.
            retriever: The retriever of the request's tenant.
            retrieval: The mode for which documents are retrieved.
        """
        asked = options.model_dump(include={*server.ceilings}, exclude_none=True)
        _check_ceilings({f"ttft.{name}": value for name, value in asked.items()}, server.ceilings)
        chosen = options.chosen(RetrieverOptions)
        most = server.longest
        differing = server.selection_for(retrieval)
        return cls(
            mode="ttft",
            modes=server.modes,
            session=None,
            retriever=retriever.model_copy(update={**differing, **chosen}),
            showing=retriever.model_copy(update=chosen) if differing.keys() - chosen else None,
            context_k=None,
            filter=options.filter,
            fine_tuning=_within_limits(options, server),
            generation={},
            timeout=min(options.timeout or most, most),
        )

    def call_arguments(
        self,
        source: Mapping[str, object],
        *,
        number: int,
        reservation: Reservation,
        started: float,
    ) -> Mapping[str, Any]:
        """Return the keyword arguments of a call of the model.

        Args:
            source: The documents or the adapter, or where the model finds documents.
            number: Number of the answer to the prompt; each has a seed of its own.
            reservation: Room in the engine.
            started: The beginning of the timeout, by `time.perf_counter`.
        """
        seed = self.generation.get("seed")
        seeds = {"seed": (seed + number) % (1 << 63)} if isinstance(seed, int) else {}
        trains = "adapter" not in source
        return {
            **source,
            **(self.fine_tuning.model_dump(exclude_none=True) if trains else {}),
            **self.generation,
            **seeds,
            "reservation": reservation,
            "timeout": self.timeout,
            "started": started,
        }


def _default_mode(session: str | None, mode: str) -> str:
    """Return the mode of a request that sets none; `mode` is the server's."""
    if session is None or (session == NEW_SESSION and fine_tunes(mode) and mode != AUTO):
        return mode
    return "ttft"  # the answer of a session costs no retrieval


def _check_context_k(options: TTFTOptions, mode: str) -> None:
    """Reject a number of documents in the prompt of a mode that puts none there."""
    if options.context_k is not None and not adds_context(mode):
        others = '"both"' if options.session else '"rag", "both" or "auto"'
        message = (
            f"ttft.context_k: mode {mode!r} puts no document into the prompt: leave it out, or set "
            f"mode to {others}"
        )
        failure = Failure(HTTPStatus.BAD_REQUEST, message, "invalid_value", "ttft.context_k")
        raise RequestRejected(failure)


def _check_ceilings(asked: Mapping[str, float | None], ceilings: Mapping[str, float]) -> None:
    """Reject a value that is above its ceiling; names are those of fields of the body."""
    for name, value in asked.items():
        most = ceilings.get(name.removeprefix("ttft."), math.inf)
        if value is not None and value > most:
            message = f"{name}: this server allows at most {most:g}"
            failure = Failure(HTTPStatus.BAD_REQUEST, message, "invalid_value", name)
            raise RequestRejected(failure)


def _prompts(body: ChatCompletionRequest | CompletionRequest) -> int:
    return len(body.prompts) if isinstance(body, CompletionRequest) else 1


def _with_most_tokens(
    generation: Mapping[str, object], server: ServingSettings
) -> Mapping[str, object]:
    """Return the settings of an answer, with `max_tokens` of at most its ceiling."""
    most = server.ceilings.get("max_tokens")
    asked: Any = generation.get("max_tokens", server.max_tokens)
    return generation if most is None else {**generation, "max_tokens": min(asked, int(most))}


def _generation(body: ChatCompletionRequest | CompletionRequest) -> Mapping[str, object]:
    """Return the settings of the answer that a request sets."""
    chosen: dict[str, object] = body.model_dump(include={*GENERATION_SETTINGS}, exclude_none=True)
    if isinstance(body, ChatCompletionRequest):
        of_template = {"chat_template_kwargs", "reasoning_effort"}
        chosen |= body.model_dump(include=of_template, exclude_none=True)
        if body.max_completion_tokens:
            chosen["max_tokens"] = body.max_completion_tokens
    if body.seed is not None:
        chosen["seed"] = body.seed % (1 << 63)
    if body.top_k is not None:
        chosen["top_k"] = max(0, body.top_k)
    if body.stop:
        chosen["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    return chosen


def _within_limits(options: LearningOptions, server: ServingSettings) -> FineTuneOptions:
    """Return the options, with limits that are at most the server's and their ceilings."""
    chosen = options.chosen(FineTuneOptions)
    for name in TrainingLimits.model_fields:
        limits = [getattr(options, name), getattr(server.finetune, name), server.ceilings.get(name)]
        chosen[name] = min((limit for limit in limits if limit is not None), default=None)
    return FineTuneOptions.model_validate(chosen)
