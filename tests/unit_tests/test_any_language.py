"""Documents, questions and answers may be of any language."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from declaration import DECLARATION
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    HiddenStateEmbeddings,
    SIFTRetriever,
    create_ttft_chain,
)
from langchain_sift.report.metrics import token_f1

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

pytestmark = pytest.mark.slow

# The model's tokens are bytes: a part of each sentence fits into its context.
QUESTIONS = {language: sentence[:25] for language, sentence in DECLARATION.items()}
CONFIG = FineTuneConfig(lora_rank=4, learning_rate=0.05, max_length=64)


@pytest.fixture(scope="module")
def retriever(embeddings: HiddenStateEmbeddings) -> SIFTRetriever:
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, id=name) for name, text in DECLARATION.items()])
    return SIFTRetriever(vectorstore=store, k=2)


def test_each_sentence_finds_itself_with_scores_that_are_numbers(retriever: SIFTRetriever) -> None:
    for language, sentence in DECLARATION.items():
        found = retriever.retrieve_with_scores(sentence)
        assert found.choices[0].document.id == language
        assert math.isfinite(found.posterior_std)
        assert all(math.isfinite(choice.gain) for choice in found.choices)


@pytest.mark.parametrize("mode", ["ttft", "both"])
def test_each_question_is_learned_for_and_answered_with_text(
    mode: str,
    retriever: SIFTRetriever,
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(QUESTIONS) >= 60
    llm = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=CONFIG, max_tokens=8
    )
    chain = create_ttft_chain(llm, retriever, mode=mode)
    answers = chain.batch([{"input": question} for question in QUESTIONS.values()])
    for question, answered in zip(QUESTIONS.values(), answers, strict=True):
        assert answered["input"] == question
        assert len(answered["context"]) == 2
        answered["answer"].encode()  # no half characters
        assert 0 <= token_f1(answered["answer"], [question]) <= 1
    learned = llm.bind(documents=answers[0]["context"]).invoke(QUESTIONS["Chinese"])
    losses = learned.response_metadata["ttft"]["losses"]
    assert losses
    assert all(map(math.isfinite, losses))
