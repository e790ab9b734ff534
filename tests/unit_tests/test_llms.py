"""The text model: the same engine, with strings at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
)

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RECIPE = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)


@pytest.fixture
def llm(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> TestTimeFineTunedLLM:
    return TestTimeFineTunedLLM(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=SIFTRetriever(vectorstore=store, k=4, noise_variance=1.0),
        finetune=RECIPE,
        max_tokens=8,
    )


def test_it_answers_as_the_chat_model_on_one_engine(llm: TestTimeFineTunedLLM) -> None:
    chat = ChatTestTimeFineTuned(
        model=llm.model,
        tokenizer=llm.tokenizer,
        retriever=llm.retriever,
        finetune=RECIPE,
        max_tokens=8,
    )
    assert chat.engine is llm.engine
    assert llm.invoke("The river carries") == chat.invoke("The river carries").content


def test_it_works_in_a_chain_and_does_not_repeat_the_prompt(llm: TestTimeFineTunedLLM) -> None:
    chain = PromptTemplate.from_template("{subject} carries") | llm | StrOutputParser()
    whole = chain.invoke({"subject": "The river"})
    assert whole
    assert not whole.startswith("The river carries")
    assert "".join(chain.stream({"subject": "The river"})) == whole
    assert chain.batch([{"subject": "The river"}, {"subject": "A baker"}]) == [
        whole,
        chain.invoke({"subject": "A baker"}),
    ]


async def test_async_answers_alike(llm: TestTimeFineTunedLLM) -> None:
    assert await llm.ainvoke("The river") == llm.invoke("The river")
    pieces = [piece async for piece in llm.astream("The river")]
    assert "".join(pieces) == llm.invoke("The river")


def test_every_generation_tells_what_it_learned_from(llm: TestTimeFineTunedLLM) -> None:
    result = llm.generate(["The river", "A baker"])
    for prompt, (generation,) in zip(("The river", "A baker"), result.generations, strict=True):
        expected = [document.id for document in llm.retriever.invoke(prompt, replace=True)]
        assert generation.generation_info["ttft"]["documents"] == expected


def test_given_documents_are_learned_from_and_no_retriever_is_asked(
    llm: TestTimeFineTunedLLM,
) -> None:
    lesson = [Document("zebra zebra zebra zebra zebra", id="lesson")] * 12
    result = llm.generate(["A baker"], documents=lesson)
    assert result.generations[0][0].generation_info["ttft"]["documents"] == ["lesson"] * 12
    assert result.generations[0][0].text != llm.invoke("A baker", documents=[])


def test_tokens_are_counted_by_its_own_tokenizer(llm: TestTimeFineTunedLLM) -> None:
    assert llm.get_num_tokens("The river") == len(llm.tokenizer("The river")["input_ids"])


async def test_a_cached_answer_is_not_that_of_a_call_with_other_settings(
    llm: TestTimeFineTunedLLM,
) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache(), "corpus_version": "1"})
    lesson = [Document("zebra zebra zebra zebra zebra zebra")] * 12
    taught, plain = llm.invoke("A baker", documents=lesson), llm.invoke("A baker")
    assert taught != plain
    assert cached.invoke("A baker") == plain
    assert cached.invoke("A baker", documents=lesson) == taught
    assert await cached.ainvoke("A baker", documents=lesson) == taught
    assert cached.invoke("A baker") == plain
