"""Tell whether a runnable takes a question or a mapping with it."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.fallbacks import RunnableWithFallbacks
from langchain_core.runnables.passthrough import RunnableAssign


def takes_mapping(runnable: Runnable[Any, Any]) -> bool:
    """Return True if a runnable takes {"input": question}, False if it takes the question itself.

    The chains of `create_retrieval_chain`, `create_history_aware_retriever` and `create_ttft_chain`
    take a mapping, as does every runnable whose input schema is an object with "input", or any.
    """
    first = runnable
    while (inner := _inner(first)) is not None:
        first = inner
    if isinstance(first, RunnableAssign):
        return True
    try:
        schema = runnable.get_input_jsonschema()
    except Exception:  # noqa: BLE001 - LangChain cannot describe every function
        return False
    properties = schema.get("properties")
    return schema.get("type") == "object" and (properties is None or "input" in properties)


def _inner(runnable: Runnable[Any, Any]) -> Runnable[Any, Any] | None:
    """Return the runnable that gets the input first; None if it is this one."""
    if isinstance(runnable, RunnableBindingBase):
        return runnable.bound
    if isinstance(runnable, RunnableSequence):
        return runnable.first
    if isinstance(runnable, RunnableWithFallbacks):
        return runnable.runnable
    if isinstance(runnable, RunnableConfigurableFields | RunnableConfigurableAlternatives):
        return runnable.default
    return None
