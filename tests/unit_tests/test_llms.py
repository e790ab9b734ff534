"""Test the text model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from unit_tests.scripted_model import scripted_model
from unit_tests.small_tokenizers import KINDS, small_tokenizer

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
)
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.tokens import text_tokens

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)


@pytest.fixture
def llm(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> TestTimeFineTunedLLM:
    return TestTimeFineTunedLLM(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=SIFTRetriever(vectorstore=store, k=4, noise_variance=1.0),
        finetune=CONFIG,
        max_tokens=8,
    )


def test_answers_equal_the_chat_models_on_one_engine(llm: TestTimeFineTunedLLM) -> None:
    chat = ChatTestTimeFineTuned(
        model=llm.model,
        tokenizer=llm.tokenizer,
        retriever=llm.retriever,
        finetune=CONFIG,
        max_tokens=8,
    )
    assert chat.engine is llm.engine
    assert llm.invoke("The river carries") == chat.invoke("The river carries").content


def test_a_chain_returns_the_answer_without_the_prompt(llm: TestTimeFineTunedLLM) -> None:
    chain = PromptTemplate.from_template("{subject} carries") | llm | StrOutputParser()
    whole = chain.invoke({"subject": "The river"})
    assert whole
    assert not whole.startswith("The river carries")
    assert "".join(chain.stream({"subject": "The river"})) == whole
    assert chain.batch([{"subject": "The river"}, {"subject": "A baker"}]) == [
        whole,
        chain.invoke({"subject": "A baker"}),
    ]


async def test_coroutines_get_the_same_answers(llm: TestTimeFineTunedLLM) -> None:
    assert await llm.ainvoke("The river") == llm.invoke("The river")
    pieces = [piece async for piece in llm.astream("The river")]
    assert "".join(pieces) == llm.invoke("The river")


def test_every_generation_has_its_documents(llm: TestTimeFineTunedLLM) -> None:
    result = llm.generate(["The river", "A baker"])
    for prompt, (generation,) in zip(("The river", "A baker"), result.generations, strict=True):
        expected = [document.id for document in llm.retriever.invoke(prompt)]
        assert generation.generation_info["ttft"]["documents"] == expected


def test_documents_of_a_call_replace_the_retriever(
    llm: TestTimeFineTunedLLM,
) -> None:
    training_documents = [Document("zebra zebra zebra zebra zebra", id="lesson")] * 12
    result = llm.generate(["A baker"], documents=training_documents)
    assert result.generations[0][0].generation_info["ttft"]["documents"] == ["lesson"] * 12
    assert result.generations[0][0].text != llm.invoke("A baker", documents=[])


def test_tokens_are_counted_by_the_models_tokenizer(llm: TestTimeFineTunedLLM) -> None:
    assert llm.get_num_tokens("The river") == len(llm.tokenizer("The river")["input_ids"])


async def test_a_call_with_other_settings_does_not_hit_the_cache(
    llm: TestTimeFineTunedLLM,
) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache(), "corpus_version": "1"})
    training_documents = [Document("zebra zebra zebra zebra zebra zebra")] * 12
    fine_tuned, plain = llm.invoke("A baker", documents=training_documents), llm.invoke("A baker")
    assert fine_tuned != plain
    assert cached.invoke("A baker") == plain
    assert cached.invoke("A baker", documents=training_documents) == fine_tuned
    assert await cached.ainvoke("A baker", documents=training_documents) == fine_tuned
    assert cached.invoke("A baker") == plain


def test_the_echo_of_an_empty_prompt_has_no_tokens() -> None:
    tokenizer = small_tokenizer("byte-level", None)
    assert text_tokens(tokenizer, "") == []
    llm = TestTimeFineTunedLLM(
        model=scripted_model(tokenizer, " In fields."), tokenizer=tokenizer, max_tokens=9
    )
    asked: dict[str, Any] = {"documents": [], "context": [Document("Rice grows.")]}
    (plain,) = llm.generate([""], **asked, logprobs=True).generations[0]
    (echoed,) = llm.generate([""], **asked, logprobs=True, echo=True).generations[0]
    assert echoed.text == plain.text
    assert echoed.generation_info["logprobs"] == plain.generation_info["logprobs"]


@pytest.mark.parametrize("token_ids", [5, [1.0], ["1"], [True]])
def test_token_ids_that_are_no_integers_are_refused(
    llm: TestTimeFineTunedLLM, token_ids: object
) -> None:
    with pytest.raises(ArgumentError, match="token_ids must be a list of integers, got"):
        llm.generate(["The river"], documents=[], token_ids=token_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_an_echo_are_its_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind, None)
    llm = TestTimeFineTunedLLM(
        model=scripted_model(tokenizer, " In fields."), tokenizer=tokenizer, max_tokens=9
    )
    prompt = "Where does rice grow?"
    asked = {"documents": [], "echo": True, "logprobs": True, "top_logprobs": 1}
    (answer,) = llm.generate([prompt], **asked).generations[0]
    tokens = answer.generation_info["logprobs"]
    text = "".join(tokens["tokens"])
    assert text.startswith(prompt)
    assert text.startswith(answer.text)  # and then the token that ends it
    for token, offset in zip(tokens["tokens"], tokens["text_offset"], strict=True):
        assert text[offset:].startswith(token)
    ids = text_tokens(tokenizer, prompt)
    (same,) = llm.generate([prompt], **asked, token_ids=ids).generations[0]
    assert same.generation_info["logprobs"] == tokens
    (alone,) = llm.generate([prompt], **asked | {"max_tokens": 0}).generations[0]
    assert alone.text == prompt
    assert alone.generation_info["logprobs"]["tokens"] == tokens["tokens"][: len(ids)]
