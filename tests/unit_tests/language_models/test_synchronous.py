"""A synchronous retriever that hangs does not keep the program from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.errors import RequestTimeout
from langchain_sift.language_models.synchronous import abandonable

SECONDS = 60.0  # only a failing test waits so long


class Hanging(BaseRetriever):
    """Returns when the test says so."""

    wait: Callable[..., object]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        del run_manager
        self.wait(SECONDS)
        return [Document(query)]


class HangingRunnable(Runnable[str, list[Document]]):
    """The same without LangChain's base class."""

    def __init__(self, wait: Callable[..., object]) -> None:
        self._wait = wait

    def invoke(self, input: str, config: RunnableConfig | None = None, **_: Any) -> list[Document]:
        del config
        self._wait(SECONDS)
        return [Document(input)]


def retrievers(wait: Callable[..., object]) -> list[Any]:
    def retrieve(query: str) -> list[Document]:
        wait(SECONDS)
        return [Document(query)]

    return [Hanging(wait=wait), HangingRunnable(wait), RunnableLambda(retrieve)]


@pytest.mark.parametrize("number", range(3))
def test_asyncio_run_ends_after_the_deadline(
    tiny_model: Any, tiny_tokenizer: Any, number: int
) -> None:
    go_on = threading.Event()
    chat = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=FineTuneConfig(lora_rank=2),
        retriever=retrievers(go_on.wait)[number],
        timeout=0.05,
        max_tokens=2,
    )
    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(chat.ainvoke("Where?"))
        except RequestTimeout as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS / 2)
    alive = thread.is_alive()
    go_on.set()
    assert not alive
    assert len(ended) == 1


@pytest.mark.parametrize("number", range(3))
async def test_its_result_and_its_run_are_those_of_the_retriever(number: int) -> None:
    retriever = retrievers(lambda _: None)[number]
    expected = [event async for event in retriever.astream_events("rice", version="v2")]
    found = abandonable(retriever, SECONDS)
    assert await found.ainvoke("rice") == [Document("rice")]
    assert found.invoke("rice") == [Document("rice")]
    if isinstance(retriever, BaseRetriever):
        events = [event async for event in found.astream_events("rice", version="v2")]
        assert [(e["event"], e["name"]) for e in events] == [
            (e["event"], e["name"]) for e in expected
        ]


class Filtering(Hanging):
    """Takes an argument of a call."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, filter: str = "none"
    ) -> list[Document]:
        del run_manager
        return [Document(f"{query} {filter}")]


async def test_a_retriever_gets_the_arguments_that_it_takes() -> None:
    retriever: BaseRetriever
    for retriever in (Hanging(wait=lambda _: None), Filtering(wait=lambda _: None)):
        found = abandonable(retriever, 5.0)
        expected = retriever.invoke("rice", filter="dry")
        assert await found.ainvoke("rice", filter="dry") == expected
        assert found.invoke("rice", filter="dry") == expected


def test_a_retriever_with_coroutines_stays_as_it_is() -> None:
    async def retrieve(query: str) -> list[Document]:
        return [Document(query)]

    asynchronous = RunnableLambda(lambda query: [Document(query)], retrieve)
    assert abandonable(asynchronous, 1.0) is asynchronous
    hanging = Hanging(wait=lambda _: None)
    assert abandonable(hanging, None) is hanging
