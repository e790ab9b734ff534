"""Test which runnables take a mapping, against what each of them accepts."""

from __future__ import annotations

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import create_ttft_chain
from langchain_sift.retrieval.inputs import takes_mapping


def of_dict(values: dict[str, str]) -> str:
    return values["input"]


def of_text(text: str) -> str:
    return text.strip()


def of_anything(text):
    return text.strip()


def of_unknown_type(text: Nowhere) -> str:  # noqa: F821 - LangChain cannot resolve it
    return text.strip()


MODEL = FakeListChatModel(responses=["an answer"])
NONE = RunnableLambda(lambda _: [Document("Rice is a grass.")])
OF_INPUT, OF_QUESTION = map(PromptTemplate.from_template, ("{input}", "{question}"))


def chains(retriever):
    retrieval = create_retrieval_chain(retriever, OF_INPUT | MODEL)
    yield from (retrieval, retrieval.with_config(tags=["mine"]), retrieval.with_retry())
    yield retrieval.with_fallbacks([retrieval])
    yield retrieval.configurable_alternatives(ConfigurableField("which"), other=retrieval)
    yield create_retrieval_chain(NONE, RunnableLambda(lambda _: "an answer"))
    yield create_history_aware_retriever(MODEL, retriever, OF_INPUT)
    yield create_ttft_chain(MODEL, retriever)
    yield RunnablePassthrough.assign(context=NONE) | OF_INPUT | MODEL
    yield RunnableLambda(of_dict)


def others(retriever):
    yield from (retriever, retriever.with_config(tags=["mine"]), MODEL, OF_QUESTION | MODEL)
    yield {"question": RunnablePassthrough(), "context": retriever} | OF_QUESTION | MODEL
    yield {"question": RunnablePassthrough(), "context": NONE} | OF_QUESTION | MODEL
    yield from map(RunnableLambda, (of_text, of_anything, of_unknown_type))


@pytest.mark.parametrize("of_mapping", [True, False])
def test_a_runnable_accepts_what_it_takes(embeddings, of_mapping):
    retriever = InMemoryVectorStore(embeddings).as_retriever()
    for runnable in (chains if of_mapping else others)(retriever):
        assert takes_mapping(runnable) is of_mapping
        assert runnable.invoke({"input": "a question"} if of_mapping else "a question") is not None
