"""Documents fit into the prompt, the same way for the models, the chain, `serve` and `compare`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import CHATML

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
    compare,
    create_ttft_chain,
)
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.context import add_context, fit_documents
from langchain_sift.language_models.modes import prompt_with_context
from langchain_sift.ttft import Engine
from langchain_sift.ttft.model.tokens import cut_text, plain_tokens, text_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FINETUNE = FineTuneConfig(lora_rank=4, lora_alpha=8.0, max_length=48)
QUESTION = "Who repairs the broken clock?"
PROMPT = "Use these documents to answer.\n\n{context}\n\n{input}"
LONG = [f"Fact {number}: " + "the river carries warm bread. " * 9 for number in range(20)]


@given(
    texts=st.lists(
        st.sampled_from([*LONG[:4], "A baker.", "", "The </s> engine. é🦊"]), max_size=9
    ),
    room=st.integers(1, 120),
    max_length=st.integers(1, 40),
)
def test_as_many_documents_as_fit_are_in_the_prompt(
    texts: list[str], room: int, max_length: int
) -> None:
    tokenizer = small_tokenizer("byte-level")

    def render(context: str) -> list[int]:
        return text_tokens(tokenizer, PROMPT.format(context=context, input="Who?"))

    fitted = fit_documents(texts, render, tokenizer, room=room, max_length=max_length)
    assert fitted.token_ids == render(fitted.context)
    assert len(fitted.token_ids) <= room or not fitted.used
    first = [n for n, text in enumerate(texts) if text not in texts[:n]]
    assert sorted([*fitted.used, *fitted.left_out]) == first
    assert list(fitted.used) == sorted(fitted.used)
    # The most informative is last.
    parts = fitted.context.split("\n\n")[::-1] if fitted.used else []
    for index, part in zip(fitted.used, parts, strict=True):
        assert (part != texts[index]) == (index in fitted.cut)
        assert texts[index].startswith(part)
        assert len(plain_tokens(tokenizer, part)) <= max_length
    for index in fitted.left_out:  # it does not fit with those before it
        earlier = [part for n, part in zip(fitted.used, parts, strict=True) if n < index]
        with_it = [*earlier, cut_text(tokenizer, texts[index], max_length)]
        assert len(render("\n\n".join(reversed(with_it)))) > room - 4  # seams may save tokens


def test_documents_precede_the_last_question() -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    assert add_context(messages, "") == messages
    last = HumanMessage(PROMPT.format(context="D", input="c"))
    assert add_context(messages, "D") == [*messages[:-1], last]


@pytest.fixture(params=[CHATML, None], ids=["chat", "text"])
def used(
    request: pytest.FixtureRequest,
    tiny_model: PreTrainedModel,
    templated: Callable[[str | None], PreTrainedTokenizerFast],
) -> dict[str, Any]:
    """Return arguments for the models and for `compare`."""
    tokenizer = templated(request.param)
    return {"model": tiny_model, "tokenizer": tokenizer, "finetune": FINETUNE}


@pytest.fixture
def prompts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[int]]]:
    """Return a function that returns the prompts that the engine got since its last call."""
    prompts: list[list[int]] = []
    request = Engine.request

    def recorded(self: Engine, texts: Any = None, task: Any = None, **settings: Any) -> Any:
        if task is not None:
            prompts.append(list(task.prompt))
        return request(self, texts, task, **settings)

    monkeypatch.setattr(Engine, "request", recorded)

    def take() -> list[list[int]]:
        taken = prompts.copy()
        prompts.clear()
        return taken

    return take


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["base", "rag", "both"])
def test_compare_the_chain_and_the_models_build_the_same_prompt(
    used: dict[str, Any],
    store: Chroma,
    prompts_of: Callable[[], list[list[int]]],
    mode: str,
) -> None:
    template = used["tokenizer"].chat_template
    report = compare(
        [QUESTION],
        [mode if mode == "base" else f"{mode}:sift"],
        vectorstore=store,
        k=20,
        protocols=["qa"],
        **used,
    )
    assert report.rows[0].failure is None
    expected = prompts_of()[-1]  # after that of the base model
    kind = ChatTestTimeFineTuned if template else TestTimeFineTunedLLM
    question = QUESTION if template else f"Question: {QUESTION}\nAnswer:"
    model = kind(**used, max_tokens=32)
    retriever = SIFTRetriever(vectorstore=store, k=20)
    documents: list[Document] = []
    if mode != "base":
        documents = retriever.invoke(QUESTION)
    model.invoke(question, documents=[], context=documents)
    assert prompts_of() == [expected]
    if template:
        create_ttft_chain(model, retriever, mode=mode).invoke({"input": question})
        assert prompts_of() == [expected]
    assert len(expected) <= 256 - 32
    if mode != "base":
        assert len(expected) > 100


def test_the_record_says_what_the_prompt_holds(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    documents = [Document(text, id=str(number)) for number, text in enumerate(LONG)]
    documents += [documents[0], Document("A baker.", id="short")]
    make = functools.partial(
        ChatTestTimeFineTuned, model=tiny_model, tokenizer=tiny_tokenizer, finetune=FINETUNE
    )
    chat = make(max_tokens=8)
    answer = chat.invoke(QUESTION, documents=[], context=documents)
    record = answer.response_metadata["ttft"]
    assert record["context"][:2] == record["context_cut"][:2] == ["0", "1"]
    named = [*record["context"], *record["context_left_out"]]
    assert sorted(named) == sorted([*map(str, range(20)), "short"])
    assert record["context_left_out"]
    chunks = list(chat.stream(QUESTION, documents=[], context=documents))
    for name in ("context", "context_cut", "context_left_out"):
        assert chunks[-1].response_metadata["ttft"][name] == record[name]
    nothing = chat.invoke(QUESTION, documents=documents[:1]).response_metadata["ttft"]
    assert nothing["context"] == nothing["context_cut"] == nothing["context_left_out"] == []
    with pytest.raises(ArgumentError, match="context must be a sequence of Documents"):
        chat.invoke(QUESTION, context="a text")


def test_a_chain_with_its_own_prompt_fits_documents_as_well(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    chat = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=FINETUNE, max_tokens=8
    )
    prompt = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{input}")])
    retriever = SIFTRetriever(vectorstore=store, k=20)
    found = create_ttft_chain(chat, retriever, mode="rag", prompt=prompt).invoke(
        {"input": QUESTION}
    )
    assert len(found["context"]) == 20
    assert isinstance(found["answer"], str)


def test_context_keeps_the_blocks_of_a_message() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "sunny"}
    blocks = [image, {"type": "text", "text": "one"}, "two", result]
    (message,) = add_context([HumanMessage(blocks)], "D")
    first = {"type": "text", "text": prompt_with_context("one", "D")}
    assert message.content == [image, first, "two", result]
    (message,) = add_context([HumanMessage([result])], "D")
    assert message.content == ["Use these documents to answer.\n\nD", result]
