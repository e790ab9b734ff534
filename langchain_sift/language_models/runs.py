"""Connect a call to its LangChain run: callbacks, events, child runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, nullcontext
from typing import Any, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from langchain_sift.language_models.identity import cache_key

EVENT = "ttft_step"
"""Name of the custom event of each training step."""

INTERNAL_ARGUMENTS = (
    *("parent_run", "capacity", "group", "context_record", "prompt_with", "kept"),
    *("started", "place", "inherited"),
)
"""Arguments of a call that the models pass to themselves; not part of traces and cache keys."""

Manager = TypeVar("Manager", CallbackManager, AsyncCallbackManager)


class RunPassingChatModel(BaseChatModel):
    """A chat model that passes the run of a call to `_stream`, as `parent_run`.

    `BaseChatModel` passes none: a retrieval would not be part of the run. A list of conversations
    is limited by a semaphore, `capacity`: `BaseChatModel.agenerate` starts all at once.
    """

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: object,
    ) -> Iterator[AIMessageChunk]:
        """Answer in chunks; see `BaseChatModel.stream`."""
        config, kwargs["parent_run"] = begin_run(self, config, CallbackManager)
        yield from super().stream(input, config, stop=stop, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: object,
    ) -> AsyncIterator[AIMessageChunk]:
        """Do the same without blocking the event loop."""
        config, kwargs["parent_run"] = begin_run(self, config, AsyncCallbackManager)
        stream: Any = super().astream(input, config, stop=stop, **kwargs)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        kwargs["parent_run"] = run_manager
        return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        capacity: asyncio.Semaphore | None = None,
        **kwargs: object,
    ) -> ChatResult:
        kwargs["parent_run"] = run_manager
        async with capacity or nullcontext():
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: object
    ) -> dict[str, Any]:
        return super()._get_invocation_params(stop, **_public(kwargs))

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: object) -> str:
        # The key of LangChain's cache; it would use the `repr` of a retriever.
        keys = {name: cache_key(value) for name, value in _public(kwargs).items()}
        return super()._get_llm_string(stop, **keys)


def begin_run(
    model: BaseChatModel, config: RunnableConfig | None, kind: type[Manager]
) -> tuple[RunnableConfig, BaseRunManager]:
    """Return a configuration for `stream`, and the run that LangChain will begin with it.

    `BaseChatModel.stream` does not pass its run to `_stream`.

    Args:
        model: The model to stream from.
        config: The configuration of the call.
        kind: `CallbackManager`, or `AsyncCallbackManager` for `astream`.
    """
    config = ensure_config(config)
    manager = kind.configure(
        config.get("callbacks"),
        model.callbacks,
        model.verbose,
        config.get("tags"),
        model.tags,
        config.get("metadata"),
        model.metadata,
    )
    run_id = config.get("run_id") or uuid7()
    run = BaseRunManager(
        run_id=run_id,
        handlers=manager.handlers,
        inheritable_handlers=manager.inheritable_handlers,
        tags=manager.tags,
        inheritable_tags=manager.inheritable_tags,
        metadata=manager.metadata,
        inheritable_metadata=manager.inheritable_metadata,
    )
    return {**config, "callbacks": manager, "run_id": run_id}, run


def child_callbacks(run: BaseRunManager | None) -> CallbackManager | None:
    """Return the callbacks of a run within this run; a model's manager has no `get_child`."""
    return None if run is None else _callbacks(CallbackManager, run, inherited=True)


def achild_callbacks(run: BaseRunManager | None) -> AsyncCallbackManager | None:
    """Do the same for coroutines."""
    return None if run is None else _callbacks(AsyncCallbackManager, run, inherited=True)


def dispatch_event(run: BaseRunManager, event: dict[str, object]) -> None:
    """Send a custom event to all handlers of a run."""
    callbacks = _callbacks(CallbackManager, run, inherited=False)
    dispatch_custom_event(EVENT, event, config={"callbacks": callbacks})


async def adispatch_event(run: BaseRunManager, event: dict[str, object]) -> None:
    """Do the same without blocking the event loop."""
    callbacks = _callbacks(AsyncCallbackManager, run, inherited=False)
    await adispatch_custom_event(EVENT, event, config={"callbacks": callbacks})


def _callbacks(kind: type[Manager], run: BaseRunManager, *, inherited: bool) -> Manager:
    """Return the callbacks of a run, or only those that runs within it inherit."""
    return kind(
        handlers=run.inheritable_handlers if inherited else run.handlers,
        inheritable_handlers=run.inheritable_handlers,
        parent_run_id=run.run_id,
        tags=run.inheritable_tags if inherited else run.tags,
        inheritable_tags=run.inheritable_tags,
        metadata=run.inheritable_metadata if inherited else run.metadata,
        inheritable_metadata=run.inheritable_metadata,
    )


def _public(call: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in call.items() if name not in INTERNAL_ARGUMENTS}
