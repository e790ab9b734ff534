"""Connect an answer to its LangChain run: callbacks, events, child runs."""

from __future__ import annotations

from typing import TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackManager,
    BaseRunManager,
    CallbackManager,
    adispatch_custom_event,
    dispatch_custom_event,
)

EVENT = "ttft_step"

Manager = TypeVar("Manager", bound=BaseCallbackManager)


def child_callbacks(run: BaseRunManager | None) -> CallbackManager | None:
    """Return the callbacks of a run within this run; a model's manager has no `get_child`."""
    return None if run is None else _callbacks(CallbackManager, run, inherited=True)


def achild_callbacks(run: BaseRunManager | None) -> AsyncCallbackManager | None:
    """Do the same for coroutines."""
    return None if run is None else _callbacks(AsyncCallbackManager, run, inherited=True)


def dispatch_event(run: BaseRunManager | None, event: dict[str, object]) -> None:
    """Send a custom event to all handlers of a run."""
    if run is not None and run.handlers:
        callbacks = _callbacks(CallbackManager, run, inherited=False)
        dispatch_custom_event(EVENT, event, config={"callbacks": callbacks})


async def adispatch_event(run: BaseRunManager | None, event: dict[str, object]) -> None:
    """Do the same without blocking the event loop."""
    if run is not None and run.handlers:
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
