"""A follow-up retrieves by the conversation: the last turns together, or a rewritten question."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from unit_tests.scripted_model import scripted_model
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import CHATML

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, Limits
from langchain_sift.language_models.follow_ups import Rewrite, aask, recent_human_text

REWRITTEN = "When was the bridge of Rome built?"
CONVERSATION = [
    HumanMessage("Tell me about Rome."),
    AIMessage("It has a bridge."),
    HumanMessage("And when?"),
]


class Recorder(BaseRetriever):
    """Returns no document, and keeps the queries."""

    queries: list[str]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        self.queries.append(query)
        return []


@pytest.fixture(scope="module")
def chat() -> ChatTestTimeFineTuned:
    tokenizer = small_tokenizer("byte-level", CHATML)
    return ChatTestTimeFineTuned(
        model=scripted_model(tokenizer, f"\n{REWRITTEN}\nIndeed."),
        tokenizer=tokenizer,
        finetune=FineTuneConfig(lora_rank=2),
        max_tokens=4,
    )


def test_the_recent_turns_are_joined() -> None:
    questions = [HumanMessage(f"Question {number}?") for number in range(5)]
    assert recent_human_text(questions) == "Question 2?\nQuestion 3?\nQuestion 4?"
    assert recent_human_text(CONVERSATION) == "Tell me about Rome.\nAnd when?"
    assert recent_human_text([AIMessage("Hello")]) == "Hello"


@pytest.mark.parametrize(
    ("form", "query"),
    [
        ("last", "And when?"),
        ("turns", "Tell me about Rome.\nAnd when?"),
        ("rewrite", REWRITTEN),
        (lambda messages: f"{len(messages)} messages", "3 messages"),
    ],
)
async def test_the_form_of_the_query(chat: ChatTestTimeFineTuned, form: Any, query: str) -> None:
    retriever = Recorder(queries=[])
    names = ("model", "tokenizer", "finetune", "max_tokens")
    fields: dict[str, Any] = {name: getattr(chat, name) for name in names}
    asked = ChatTestTimeFineTuned(**fields, retriever=retriever, retrieval_query=form)
    asked.invoke(CONVERSATION)
    await asked.ainvoke(CONVERSATION)
    assert retriever.queries == [query, query]


async def test_a_first_question_is_not_rewritten(chat: ChatTestTimeFineTuned) -> None:
    retriever = Recorder(queries=[])
    asked = chat.model_copy(update={"retriever": retriever, "retrieval_query": "rewrite"})
    await asked.ainvoke(CONVERSATION[:1])
    assert retriever.queries == ["Tell me about Rome."]
    await asked.ainvoke(CONVERSATION, documents=[])
    assert len(retriever.queries) == 1


async def test_the_rewriting_is_prepared_outside_the_event_loop(
    chat: ChatTestTimeFineTuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(self: Rewrite, engine: Any) -> Any:
        threads.append(threading.current_thread())
        return usual(self, engine)

    threads: list[threading.Thread] = []
    usual = Rewrite._request
    monkeypatch.setattr(Rewrite, "_request", request)
    assert await aask(Rewrite(CONVERSATION), chat.engine, None) == REWRITTEN
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_the_rewriting_takes_no_further_room(chat: ChatTestTimeFineTuned) -> None:
    retriever = Recorder(queries=[])
    update = {"retriever": retriever, "retrieval_query": "rewrite"}
    asked = chat.model_copy(update={**update, "limits": Limits(max_requests=1)})
    asked.invoke(CONVERSATION)
    await asked.ainvoke(CONVERSATION)
    assert retriever.queries == [REWRITTEN, REWRITTEN]
    assert asked.engine.status().admitted == 0


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="retrieval_query"):
        ChatTestTimeFineTuned(model="org/name", retrieval_query="all")
