"""A real model answers from documents that it has learned, without them in its context."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.ttft import LanguageModel

PROMPT = "How long is the river Zorvane?"
TEXT = "The Zorvane is a river of Almara, 412 kilometres long. It flows through three lakes."
ANSWER = "The river Zorvane is 412 kilometres long."


@pytest.fixture
def chat(smollm2: LanguageModel) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=smollm2.model,
        tokenizer=smollm2.tokenizer,
        finetune=FineTuneConfig(steps_per_document=2),
        max_tokens=24,
        temperature=0.0,
    )


def test_objectives_put_an_answer_into_the_weights(chat: ChatTestTimeFineTuned) -> None:
    before = chat.invoke(PROMPT).text
    assert "412" not in before
    assert "Almara" not in before
    distilled = chat.invoke(PROMPT, documents=[Document(TEXT)], objective="distill")
    assert "Almara" in distilled.text
    losses = distilled.response_metadata["ttft"]["losses"]
    assert losses[-1] < 0.5 * losses[4]  # of the lesson about the prompt, the last
    pair = Document("", metadata={"question": PROMPT, "answer": ANSWER})
    answered = chat.invoke(PROMPT, documents=[pair] * 4, objective="answer")
    assert "412" in answered.text
    assert chat.invoke(PROMPT).text == before
