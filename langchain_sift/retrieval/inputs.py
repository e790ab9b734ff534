"""Tell whether a runnable takes a question or a mapping with it."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.passthrough import RunnableAssign


def takes_mapping(runnable: Runnable[Any, Any]) -> bool:
    """Return True if a runnable takes {"input": question}, False if it takes the question itself.

    The chains of `create_retrieval_chain`, `create_history_aware_retriever` and `create_ttft_chain`
    take a mapping, as does every runnable whose input schema is an object with "input", or any.
    """
    first = runnable
    while isinstance(first, RunnableBindingBase | RunnableSequence):
        first = first.bound if isinstance(first, RunnableBindingBase) else first.first
    if isinstance(first, RunnableAssign):
        return True
    try:
        schema = runnable.get_input_jsonschema()
    except Exception:  # noqa: BLE001 - LangChain cannot describe every function
        return False
    properties = schema.get("properties")
    return schema.get("type") == "object" and (properties is None or "input" in properties)
