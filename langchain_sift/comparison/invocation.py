"""Call a runnable of a user's, which may have coroutines only."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from langchain_core.runnables import Runnable

from langchain_sift.stores.deadlines import within


def invoke(runnable: Runnable[Any, Any], value: Any) -> Any:
    """Return what a runnable makes of a value; one that has coroutines only runs in a thread.

    A thread, because the caller may be within an event loop, as in a notebook.
    """
    try:
        return runnable.invoke(value)
    except Exception as error:
        # LangChain, LangGraph and this package name `ainvoke` in the message.
        if not isinstance(error, NotImplementedError) and "ainvoke" not in str(error):
            raise
    return within(math.inf, lambda: asyncio.run(runnable.ainvoke(value)))
