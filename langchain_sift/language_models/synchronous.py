"""Await synchronous retrievers in threads that can be abandoned.

LangChain runs a synchronous retriever in the event loop's executor, whose threads `asyncio.run`
waits for at its end: one that hangs would keep the program from ending after its deadline.
"""

from __future__ import annotations

import functools
from typing import Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_sift.stores.deadlines import awithin

Retriever = Runnable[str, list[Document]]


def abandonable(retriever: Retriever, timeout: float | None) -> Retriever:
    """Return a retriever whose coroutines wait for no thread after the timeout.

    Args:
        retriever: Any retriever. One with coroutines of its own is returned as it is.
        timeout: Seconds until a call is abandoned. None means never.
    """
    if timeout is None:
        return retriever
    if isinstance(retriever, BaseRetriever):
        return _InThread.of(retriever, timeout) if _is_synchronous(retriever) else retriever
    is_lambda = isinstance(retriever, RunnableLambda) and not hasattr(retriever, "afunc")
    if is_lambda or type(retriever).ainvoke is Runnable.ainvoke:
        return _RunnableInThread(retriever, timeout)
    return retriever


def _is_synchronous(retriever: BaseRetriever) -> bool:
    own, default = type(retriever)._aget_relevant_documents, BaseRetriever._aget_relevant_documents
    return own is default and retriever._new_arg_supported


class _InThread(BaseRetriever):
    """A synchronous retriever of LangChain's."""

    retriever: BaseRetriever
    timeout: float

    @classmethod
    def of(cls, retriever: BaseRetriever, timeout: float) -> Self:
        """Wrap a retriever; its runs keep their name."""
        return cls(
            retriever=retriever,
            timeout=timeout,
            name=retriever.get_name(),
            tags=retriever.tags,
            metadata=retriever.metadata,
        )

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **call: object
    ) -> list[Document]:
        # As LangChain does: most retrievers take no arguments of a call.
        taken = call if self.retriever._expects_other_args else {}
        documents: list[Document] = self.retriever._get_relevant_documents(
            query, run_manager=run_manager, **taken
        )
        return documents

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **call: object
    ) -> list[Document]:
        retrieve = functools.partial(
            self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **call
        )
        return await awithin(self.timeout, retrieve, self.retriever)


class _RunnableInThread(Runnable[str, list[Document]]):
    """Another synchronous runnable that returns documents."""

    def __init__(self, retriever: Retriever, timeout: float) -> None:
        self._retriever = retriever
        self._timeout = timeout

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **call: object
    ) -> list[Document]:
        return self._retriever.invoke(input, config, **call)

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **call: object
    ) -> list[Document]:
        retrieve = functools.partial(self.invoke, input, config, **call)
        return await awithin(self._timeout, retrieve, self._retriever)
