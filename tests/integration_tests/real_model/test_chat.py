"""Chat with a real model: LangChain's standard tests, streams, isolation, and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import NAME, Endpoint, fill_collection, make_settings, run_endpoint
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from openai import OpenAI

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, HiddenStateEmbeddings, Limits
from langchain_sift.ttft import LanguageModel

CONFIG = FineTuneConfig(lora_rank=8, lora_alpha=8.0, learning_rate=2e-3, max_length=64)
QUESTION = [SystemMessage("Answer in one word."), HumanMessage("What is the capital of France?")]
DOCUMENTS = [
    Document(id="river", page_content="The Zorvane is a river of Almara, 412 kilometres long."),
    Document(
        id="bread", page_content="Zorvane bread is baked with rye, walnuts and mountain salt."
    ),
]


class RealModel:
    """Parameters of LangChain's standard tests."""

    @pytest.fixture(autouse=True)
    def _model(self, smollm2: LanguageModel) -> None:
        self._params = {"model": smollm2.model, "tokenizer": smollm2.tokenizer}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTestTimeFineTuned

    @property
    def has_tool_calling(self) -> bool:
        return False  # its chat template has no place for tools

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # weights are loaded once

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self._params, "finetune": CONFIG}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 24, "stop": []}


class TestStandardUnit(RealModel, ChatModelUnitTests):
    pass


class TestStandardIntegration(RealModel, ChatModelIntegrationTests):
    pass


@pytest.fixture(scope="module")
def chat(smollm2: LanguageModel) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=smollm2.model,
        tokenizer=smollm2.tokenizer,
        finetune=CONFIG,
        limits=Limits(max_batch_size=1),
        temperature=0,
        max_tokens=12,
    )


def test_it_answers_in_english_and_streams_the_same(chat: ChatTestTimeFineTuned) -> None:
    message = chat.invoke(QUESTION)
    assert "Paris" in message.text
    pieces = list(chat.stream(QUESTION))
    assert "".join(piece.text for piece in pieces) == message.text
    assert sum(bool(piece.text) for piece in pieces) > 1 or len(message.text) < 8


def test_training_changes_one_answer_and_neither_the_next_nor_the_model(
    chat: ChatTestTimeFineTuned, smollm2: LanguageModel
) -> None:
    question = "Where is the Zorvane, and what is baked there?"
    weights = {name: weight.clone() for name, weight in smollm2.model.named_parameters()}
    before = chat.invoke(question, documents=[])
    trained = chat.invoke(question, documents=DOCUMENTS * 3)
    after = chat.invoke(question, documents=[])
    again = chat.invoke(question, documents=DOCUMENTS * 3)
    record = trained.response_metadata["ttft"]
    assert record["documents"] == ["river", "bread"] * 3
    assert record["fallback"] is None
    assert record["losses"][-1] < record["losses"][1]
    assert before.text == after.text
    assert trained.text == again.text
    assert record["losses"] == again.response_metadata["ttft"]["losses"]
    for name, weight in smollm2.model.named_parameters():
        assert weight.equal(weights[name]), name


@pytest.fixture(scope="module")
def endpoint(
    smollm2: LanguageModel, smollm2_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    texts = [document.page_content for document in DOCUMENTS]
    store = tmp_path_factory.mktemp("store")
    mean = HiddenStateEmbeddings(smollm2.model, smollm2.tokenizer).fit(texts).mean
    fill_collection(texts, str(smollm2_file), mean, folder=store)
    with run_endpoint(make_settings(smollm2_file, store, finetune=CONFIG, k=2)) as endpoint:
        yield endpoint


def test_the_official_client_gets_trained_answers_streams_and_schemas(endpoint: Endpoint) -> None:
    messages: Any = [{"role": "user", "content": "What is the Zorvane?"}]
    asked: Any = {"model": NAME, "messages": messages, "max_tokens": 12, "temperature": 0}
    with OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(**asked, extra_body={"ttft": {"mode": "ttft"}})
        record = answer.model_extra["ttft"]
        assert record["steps"] == 2
        assert record["fallback"] is None
        streamed = client.chat.completions.create(
            **asked, stream=True, extra_body={"ttft": {"mode": "ttft"}}
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        assert text == answer.choices[0].message.content
        schema = {
            "type": "object",
            "properties": {"kind": {"enum": ["river", "bread"]}},
            "required": ["kind"],
        }
        shaped = client.chat.completions.create(
            **asked | {"max_tokens": 30},
            extra_body={"ttft": {"mode": "rag"}},
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "kind", "schema": schema, "strict": True},
            },
        )
        assert shaped.choices[0].message.content in (
            '{"kind": "river"}',
            '{"kind": "bread"}',
            '{"kind":"river"}',
            '{"kind":"bread"}',
        )
