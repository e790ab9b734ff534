"""Test the chat model with LangChain's standard tests, and its fine-tuning."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from langchain_chroma import Chroma
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, SIFTRetriever
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from langchain_sift import HiddenStateEmbeddings

CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)


@pytest.fixture
def chat(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=SIFTRetriever(vectorstore=store, k=4, noise_variance=1.0),
        finetune=CONFIG,
        max_tokens=8,
    )


class StandardParameters:
    """Parameters of both suites of LangChain's standard tests."""

    @pytest.fixture(autouse=True)
    def _small_model(
        self, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self._model_params = {"model": tiny_model, "tokenizer": tiny_tokenizer}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTestTimeFineTuned

    @property
    def has_tool_calling(self) -> bool:
        return False  # the small model's tokenizer has no chat template

    @property
    def has_structured_output(self) -> bool:
        return False  # nor does it write JSON

    @property
    def supports_model_override(self) -> bool:
        return False  # weights are loaded once

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self._model_params, "finetune": CONFIG}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # The standard parameters that a local model has.
        return {"temperature": 0, "max_tokens": 20, "stop": []}


class TestStandardUnit(StandardParameters, ChatModelUnitTests):
    pass


class TestStandardIntegration(StandardParameters, ChatModelIntegrationTests):
    pass


class ToolParameters(StandardParameters):
    """Parameters for a model that calls tools."""

    @pytest.fixture(autouse=True)
    def _small_model(self, tool_model: tuple[PreTrainedModel, PreTrainedTokenizerFast]) -> None:
        self._model_params = dict(zip(("model", "tokenizer"), tool_model, strict=True))

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 100, "stop": []}


@pytest.mark.slow
class TestStandardUnitWithTools(ToolParameters, ChatModelUnitTests):
    pass


@pytest.mark.slow
class TestStandardIntegrationWithTools(ToolParameters, ChatModelIntegrationTests):
    pass


def test_the_message_has_the_documents_and_the_usage(chat: ChatTestTimeFineTuned) -> None:
    message = chat.invoke("The river carries seven maps")
    record = message.response_metadata["ttft"]
    expected = chat.retriever.invoke("The river carries seven maps")
    assert record["documents"] == [document.id for document in expected]
    assert record["steps"] == len(record["losses"]) == 4
    assert record["fallback"] is None
    assert set(record["seconds"]) == {
        *("retrieval", "waiting", "teaching", "training", "generation")
    }
    assert message.usage_metadata["input_tokens"] == len(
        chat.get_token_ids("The river carries seven maps")
    )
    assert message.usage_metadata["output_tokens"] == 8


def test_fine_tuning_changes_the_answer_and_is_discarded(chat: ChatTestTimeFineTuned) -> None:
    training_documents = [Document("zebra zebra zebra zebra zebra zebra")] * 12
    base = chat.invoke("A baker", documents=[]).content
    fine_tuned = chat.invoke("A baker", documents=training_documents).content
    assert fine_tuned != base
    assert chat.invoke("A baker", documents=[]).content == base
    assert chat.invoke("A baker", documents=training_documents).content == fine_tuned


def test_with_an_empty_store_the_base_model_answers_with_the_reason(
    chat: ChatTestTimeFineTuned, embeddings: HiddenStateEmbeddings
) -> None:
    empty = Chroma(collection_name=f"empty-{uuid.uuid4()}", embedding_function=embeddings)
    asked = chat.model_copy(update={"retriever": SIFTRetriever(vectorstore=empty)})
    message = asked.invoke("The river")
    assert message.response_metadata["ttft"]["fallback"] == "no document to train on"
    assert message.response_metadata["ttft"]["steps"] == 0
    assert message.content == chat.invoke("The river", documents=[]).content


def test_the_query_is_the_last_human_message(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    asked: list[str] = []
    retriever = RunnableLambda(lambda query: asked.append(query) or [])
    chat = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, retriever=retriever, max_tokens=2
    )
    chat.invoke(
        [SystemMessage("be brief"), HumanMessage("one"), AIMessage("two"), HumanMessage("three")]
    )
    assert asked == ["three"]
    whole = chat.model_copy(
        update={"retrieval_query": lambda messages: " / ".join(m.text for m in messages)}
    )
    whole.invoke([HumanMessage("one"), AIMessage("two"), HumanMessage("three")])
    assert asked[-1] == "one / two / three"


def test_the_chat_template_is_used_if_there_is_one(
    chat: ChatTestTimeFineTuned, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    messages = [SystemMessage("be brief"), HumanMessage("one"), HumanMessage("two")]
    tokenizer = chat.engine.language_model.tokenizer
    plain = tiny_tokenizer("be brief\n\none\n\ntwo")["input_ids"]
    assert render(tokenizer, messages) == plain
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tiny_tokenizer.chat_template = template
    try:
        rendered = "<system>be brief<user>one\ntwo<assistant>"
        assert render(tokenizer, messages) == tiny_tokenizer(rendered)["input_ids"]
    finally:
        tiny_tokenizer.chat_template = None


def test_a_chain_streams_the_same_text(chat: ChatTestTimeFineTuned) -> None:
    prompt = ChatPromptTemplate.from_messages([("user", "{subject} carries")])
    chain = prompt | chat | StrOutputParser()
    whole = chain.invoke({"subject": "The river"})
    pieces = list(chain.stream({"subject": "The river"}))
    assert "".join(pieces) == whole
    assert len(pieces) > 2
    assert chain.batch([{"subject": "The river"}] * 3) == [whole] * 3


async def test_coroutines_get_the_same_answers(chat: ChatTestTimeFineTuned) -> None:
    expected = [chat.invoke(text).content for text in ("The river", "A baker")]
    found = await asyncio.gather(chat.ainvoke("The river"), chat.ainvoke("A baker"))
    assert [message.content for message in found] == expected
    chunks = [chunk async for chunk in chat.astream("The river")]
    assert "".join(str(chunk.content) for chunk in chunks) == expected[0]


def test_stop_strings_end_the_answer_before_them(chat: ChatTestTimeFineTuned) -> None:
    whole = chat.invoke("The river").content
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    assert chat.invoke("The river", stop=[middle]).content == whole[: whole.index(middle)]
    assert (
        chat.model_copy(update={"stop": [middle]}).invoke("The river").content
        == (whole[: whole.index(middle)])
    )


def test_answers_are_not_cached_by_default(chat: ChatTestTimeFineTuned) -> None:
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        chat.invoke("The river")
        assert not cache._cache
    finally:
        set_llm_cache(None)


def test_typos_are_errors_that_list_the_known_names(chat: ChatTestTimeFineTuned) -> None:
    with pytest.raises(ValueError, match="max_token\n"):
        ChatTestTimeFineTuned(model="x", max_token=3)
    with pytest.raises(ArgumentError, match=r"'max_token'.*max_tokens"):
        chat.invoke("The river", max_token=3)
    with pytest.raises(ArgumentError, match="got 0"):
        chat.invoke("The river", max_tokens=0)
    with pytest.raises(ArgumentError, match="from 1 to 255 tokens"):
        chat.invoke("The river " * 400)


def test_the_retrieval_is_traced_as_part_of_the_models_run(chat: ChatTestTimeFineTuned) -> None:
    runs: dict[str, tuple[object, object]] = {}

    class Tracer(BaseCallbackHandler):
        def on_chat_model_start(
            self, *_: object, run_id: object, parent_run_id: object, **__: object
        ) -> None:
            runs["model"] = (run_id, parent_run_id)

        def on_retriever_start(
            self, *_: object, run_id: object, parent_run_id: object, **__: object
        ) -> None:
            runs["retriever"] = (run_id, parent_run_id)

    chat.invoke("The river", config={"callbacks": [Tracer()]})
    assert runs["model"][1] is None
    assert runs["retriever"][1] == runs["model"][0]


def test_construction_loads_nothing() -> None:
    chat = ChatTestTimeFineTuned(model="no/such-model")
    assert chat._engine is None
    assert "no/such-model" in repr(chat)
