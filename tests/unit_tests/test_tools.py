"""Test tools end to end: calls, agents, structured output, and models without tools."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.documents import Document
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.utils.function_calling import convert_to_openai_tool
from unit_tests.templates import CHATML, GEMMA
from unit_tests.tool_model import (
    BROKEN,
    JOKE,
    JOKE_AS_JSON,
    MARKED,
    PLACE,
    TWICE,
    WEATHER,
    Joke,
    JokeDict,
    get_weather,
    magic_function,
)

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.chat_reply import ChatAnswer
from langchain_sift.language_models.chat_templates.rendering import render

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ToolModel = tuple["PreTrainedModel", "PreTrainedTokenizerFast"]
QUESTION = {"messages": [HumanMessage(WEATHER)]}

# The model that calls tools has to be trained first.
pytestmark = pytest.mark.slow


@pytest.fixture
def chat(tool_model: ToolModel) -> ChatTestTimeFineTuned:
    model, tokenizer = tool_model
    return ChatTestTimeFineTuned(
        model=model,
        tokenizer=tokenizer,
        finetune=FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-4, max_length=64),
        max_tokens=100,
    )


@pytest.fixture(params=[None, CHATML, GEMMA], ids=["none", "chatml", "gemma"])
def toolless(
    request: pytest.FixtureRequest,
    tiny_model: PreTrainedModel,
    templated: Any,
) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(model=tiny_model, tokenizer=templated(request.param), max_tokens=4)


def summed(chunks: Iterator[AIMessageChunk]) -> AIMessageChunk:
    first, *rest = chunks
    return first + rest if rest else first


def content_and_calls(message: AIMessage) -> tuple[Any, ...]:
    """Return the parts of a message that do not differ between equal answers."""
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    invalid = [(call["name"], call["args"]) for call in message.invalid_tool_calls]
    return message.text, calls, invalid


# Agents.


def check_the_agents(messages: list[Any], *, steps: int = 0) -> None:
    _, call, result, answer = messages
    assert [made["args"] for made in call.tool_calls] == [{"location": PLACE}]
    assert isinstance(result, ToolMessage)
    assert result.content == f"It's sunny in {PLACE}."
    assert result.tool_call_id == call.tool_calls[0]["id"]
    assert (answer.content, answer.tool_calls) == ("It is sunny there.", [])
    assert answer.response_metadata["ttft"]["steps"] == steps


def test_an_agent_calls_its_tool_and_answers(chat: ChatTestTimeFineTuned) -> None:
    check_the_agents(create_agent(chat, tools=[get_weather]).invoke(QUESTION)["messages"])


async def test_an_agent_of_coroutines_calls_its_tool_and_answers(
    chat: ChatTestTimeFineTuned,
) -> None:
    result = await create_agent(chat, tools=[get_weather]).ainvoke(QUESTION)
    check_the_agents(result["messages"])


def test_an_agent_is_fine_tuned_at_each_turn(chat: ChatTestTimeFineTuned) -> None:
    queries: list[str] = []
    documents = [Document("San Francisco lies at the sea.")] * 2
    retriever = RunnableLambda(lambda query: queries.append(query) or documents)
    agent = create_agent(chat.model_copy(update={"retriever": retriever}), tools=[get_weather])
    check_the_agents(agent.invoke(QUESTION)["messages"], steps=2)
    assert queries == [WEATHER] * 2


def test_an_agents_answers_are_streamed(chat: ChatTestTimeFineTuned) -> None:
    agent = create_agent(chat, tools=[get_weather])
    updates = [*agent.stream(QUESTION, stream_mode="updates")]
    assert [next(iter(update)) for update in updates] == ["model", "tools", "model"]
    spoken = [*agent.stream(QUESTION, stream_mode="messages")]
    chunks = [message for message, _ in spoken if isinstance(message, AIMessageChunk)]
    turns = [[*group] for _, group in itertools.groupby(chunks, lambda chunk: chunk.id)]
    call, answer = map(summed, turns)
    assert content_and_calls(call) == ("", [("get_weather", {"location": PLACE})], [])
    assert content_and_calls(answer) == ("It is sunny there.", [], [])
    assert len(turns[1]) > 2


async def test_an_agents_answers_are_streamed_to_coroutines(chat: ChatTestTimeFineTuned) -> None:
    agent = create_agent(chat, tools=[get_weather])
    texts = [
        event["data"]["chunk"].text
        async for event in agent.astream_events(QUESTION, version="v2")
        if event["event"] == "on_chat_model_stream"
    ]
    assert "".join(texts) == "It is sunny there."


@pytest.mark.parametrize("response_format", [Joke, ToolStrategy(Joke)])
def test_an_agent_answers_with_an_object(
    chat: ChatTestTimeFineTuned, response_format: type[Joke] | ToolStrategy[Joke]
) -> None:
    assert not isinstance(chat.model, str)  # LangChain asks for a name
    agent = create_agent(chat, response_format=response_format)
    result = agent.invoke({"messages": [HumanMessage("Tell me a joke about cats.")]})
    assert result["structured_response"] == Joke(**JOKE)


# Calls.


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (WEATHER, ("", [("get_weather", {"location": PLACE})], [])),
        (
            TWICE,
            ("I look.", [("get_weather", {"location": place}) for place in ("Rome", "Oslo")], []),
        ),
        (
            BROKEN,
            (
                "I stop.",
                [],
                [
                    (
                        "get_weather",
                        '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Rome',
                    )
                ],
            ),
        ),
        (MARKED, ("One two.", [], [])),
    ],
    ids=["one", "two", "broken", "none"],
)
async def test_all_ways_to_call_the_model_return_the_same_calls(
    chat: ChatTestTimeFineTuned, question: str, expected: tuple[Any, ...], version: str
) -> None:
    bound = chat.model_copy(update={"output_version": version}).bind_tools([get_weather])
    answers = [
        bound.invoke(question),
        await bound.ainvoke(question),
        summed(bound.stream(question)),
        summed([chunk async for chunk in bound.astream(question)]),
        bound.stream_events(question, version="v3").output,
        await (await bound.astream_events(question, version="v3")).output,
    ]
    assert [content_and_calls(answer) for answer in answers] == [expected] * len(answers)
    for answer in answers:
        ids = [call["id"] for call in [*answer.tool_calls, *answer.invalid_tool_calls]]
        assert len(set(ids)) == len(ids)
        blocks = [block for block in answer.content_blocks if block["type"] == "tool_call"]
        assert [block["args"] for block in blocks] == [args for _, args in expected[1]]
        assert answer.usage_metadata["output_tokens"] > 0
        assert answer.response_metadata["model_name"] == "LlamaForCausalLM"


async def test_a_streamed_call_comes_as_one_piece_after_the_text(
    chat: ChatTestTimeFineTuned,
) -> None:
    *texts, calls, last = chat.bind_tools([get_weather]).stream(TWICE)
    assert "".join(chunk.text for chunk in texts) == "I look."
    assert len(texts) > 1
    assert [chunk["index"] for chunk in calls.tool_call_chunks] == [1, 2]
    assert (last.content, last.tool_call_chunks, last.chunk_position) == ("", [], "last")


def test_streaming_can_be_disabled_for_calls_with_tools(chat: ChatTestTimeFineTuned) -> None:
    whole = chat.model_copy(update={"disable_streaming": "tool_calling"})
    (message,) = whole.bind_tools([get_weather]).stream(TWICE)
    assert content_and_calls(message) == content_and_calls(
        chat.bind_tools([get_weather]).invoke(TWICE)
    )
    assert len([*whole.stream("Hello")]) > 2


def test_a_malformed_call_is_part_of_the_next_prompt(chat: ChatTestTimeFineTuned) -> None:
    broken = chat.bind_tools([get_weather]).invoke(BROKEN)
    conversation = [HumanMessage(BROKEN), broken, HumanMessage("Again!")]
    prompt = chat.engine.language_model.tokenizer.decode(
        render(chat.engine.language_model.tokenizer, conversation)
    )
    assert f"I stop.\n{broken.invalid_tool_calls[0]['args']}<|im_end|>" in prompt


def test_stop_strings_apply_to_the_raw_text(chat: ChatTestTimeFineTuned) -> None:
    bound = chat.bind_tools([get_weather])
    assert bound.invoke(TWICE, stop=["look"]).content == "I "
    message = bound.invoke(TWICE, stop=["</tool_call>"])
    assert [call["args"] for call in message.tool_calls] == [{"location": "Rome"}]


# Which tools.


@pytest.mark.parametrize(
    "choice",
    [
        *("any", "required", True, "magic_function"),
        {"function": {"name": "magic_function"}},
        {"type": "function", "function": {"name": "magic_function"}},
        {"type": "any"},
        {"type": "tool", "name": "magic_function"},
    ],
    ids=str,
)
def test_a_model_that_must_call_a_tool_calls_one(chat: ChatTestTimeFineTuned, choice: Any) -> None:
    bound = chat.bind_tools([magic_function, get_weather], tool_choice=choice)
    assert [call["name"] for call in bound.invoke("Hello!").tool_calls] == ["magic_function"]


def test_tool_choice_any_forces_a_call(chat: ChatTestTimeFineTuned) -> None:
    assert chat.bind_tools([get_weather]).invoke(MARKED).content == "One two."
    made = chat.bind_tools([get_weather], tool_choice="any").invoke(MARKED)
    assert made.content == ""
    # It was not trained on this call, which may be malformed.
    assert len(made.tool_calls + made.invalid_tool_calls) == 1


def test_tool_calls_are_optional_by_default(chat: ChatTestTimeFineTuned) -> None:
    for choice in (None, "auto", False, {"type": "auto"}):
        bound = chat.bind_tools([magic_function, get_weather], tool_choice=choice)
        assert [tool["function"]["name"] for tool in bound.kwargs["tools"]] == [
            "magic_function",
            "get_weather",
        ]
        assert "tool_choice" not in bound.kwargs
    none = chat.bind_tools([get_weather], tool_choice={"type": "none"})
    assert none.kwargs["tools"] == []
    none = chat.bind_tools([get_weather], tool_choice="none")
    assert none.invoke("Hello").content == chat.invoke("Hello").content == "Hello! How are you?"


def test_a_call_may_have_tools(chat: ChatTestTimeFineTuned) -> None:
    tools = [convert_to_openai_tool(magic_function)]
    message = chat.invoke("Hello!", tools=tools, tool_choice="required")
    assert [call["name"] for call in message.tool_calls] == ["magic_function"]


def test_unknown_tools_and_choices_are_errors(chat: ChatTestTimeFineTuned) -> None:
    with pytest.raises(ArgumentError, match=r"'other' is none of the tools \['get_weather'\]"):
        chat.bind_tools([get_weather], tool_choice="other")
    for choice in ({"type": "tool"}, {"function": {}}, {"function": "get_weather"}, {"a": 1}, 3):
        with pytest.raises(ArgumentError, match=r"none of the tools \['get_weather'\].*required"):
            chat.bind_tools([get_weather], tool_choice=choice)
    with pytest.raises(ArgumentError, match="'web_search' is a tool of another provider's"):
        chat.bind_tools([{"type": "web_search"}])


@pytest.mark.parametrize("choice", ["any", "required", True, "get_weather", {"type": "any"}])
def test_a_required_call_needs_tools(chat: ChatTestTimeFineTuned, choice: Any) -> None:
    for call in (
        lambda: chat.bind_tools([], tool_choice=choice),
        lambda: chat.invoke("Hello!", tool_choice=choice),
        lambda: chat.invoke("Hello!", tools=[], tool_choice=choice),
    ):
        with pytest.raises(ArgumentError, match=r"tool_choice .* needs tools, got none"):
            call()
    for choice_of_none in (None, "auto", "none", False):
        bound = chat.bind_tools([], tool_choice=choice_of_none)
        assert bound.invoke("Hello").content == chat.invoke("Hello").content


# Objects.


@pytest.mark.parametrize(
    ("schema", "joke"),
    [(Joke, Joke(**JOKE)), (JokeDict, JOKE), (Joke.model_json_schema(), JOKE)],
    ids=["pydantic", "typeddict", "json_schema"],
)
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
async def test_an_object_of_any_schema_is_returned(
    chat: ChatTestTimeFineTuned, schema: Any, joke: Any, method: str
) -> None:
    question = JOKE_AS_JSON if method == "json_mode" else "Tell me a joke about cats."
    model: Runnable[Any, Any] = chat.with_structured_output(schema, method=method)
    if method == "json_schema":  # the model has not learnt this prompt
        joke = model.invoke(question)
        Joke.model_validate(joke)
    assert model.invoke(question) == await model.ainvoke(question) == joke
    assert [*model.stream(question)][-1] == joke
    raw = chat.with_structured_output(schema, method=method, include_raw=True).invoke(question)
    assert isinstance(raw["raw"], AIMessage)
    assert (raw["parsed"], raw["parsing_error"]) == (joke, None)


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_an_answer_that_max_tokens_cuts_is_an_error_that_can_be_returned(
    chat: ChatTestTimeFineTuned, method: str
) -> None:
    brief = chat.model_copy(update={"max_tokens": 30})
    # The end of this pattern is spelled by no plan.
    animal = {"type": "string", "pattern": "^[a-z ]*zebra$"}
    schema = {"title": "animal", "type": "object", "properties": {"a": animal}, "required": ["a"]}
    with pytest.raises(OutputParserException, match=r"ended after 30 tokens.*raise max_tokens"):
        brief.with_structured_output(schema, method=method).invoke("Hello")
    model = brief.with_structured_output(schema, method=method, include_raw=True)
    raw = model.invoke("Hello")
    assert raw["raw"].response_metadata["finish_reason"] == "length"
    assert raw["parsed"] is None
    assert isinstance(raw["parsing_error"], OutputParserException)


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("schema", [Joke, JokeDict])
def test_an_object_without_room_is_refused(
    chat: ChatTestTimeFineTuned, schema: Any, method: str
) -> None:
    brief = chat.model_copy(update={"max_tokens": 3})
    with pytest.raises(ArgumentError, match="max_tokens is 3"):
        brief.with_structured_output(schema, method=method).invoke("Hello")


def test_an_unknown_method_is_an_error(chat: ChatTestTimeFineTuned) -> None:
    with pytest.raises(ArgumentError, match=r"json_mode.*got 'xml'"):
        chat.with_structured_output(Joke, method="xml")
    with pytest.raises(ValueError, match="unsupported"):
        chat.with_structured_output(Joke, method="json_mode", stric=True)


# Models without tools.


def test_without_tools_in_the_template_a_call_is_a_json_object(
    toolless: ChatTestTimeFineTuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(['{"name": "get_weather", "arguments": {"location": "Rome"}}', "It is sunny."])
    monkeypatch.setattr(Answer, "__iter__", lambda _: iter([next(said)]))
    monkeypatch.setattr(ChatAnswer, "_metadata", lambda _: {"response_metadata": {}})
    _, call, _, answer = create_agent(toolless, [get_weather]).invoke(QUESTION)["messages"]
    assert [made["args"] for made in call.tool_calls] == [{"location": "Rome"}]
    assert (answer.text, answer.tool_calls) == ("It is sunny.", [])


def test_an_agent_without_tools_needs_no_template_with_tools(
    toolless: ChatTestTimeFineTuned,
) -> None:
    answer = create_agent(toolless).invoke(QUESTION)["messages"][-1]
    assert answer.usage_metadata["output_tokens"] > 0


# An end of turn that only the tokenizer defines.


def test_an_answer_ends_at_the_tokenizers_end_of_turn(tool_model: ToolModel) -> None:
    model, tokenizer = tool_model
    forgetful = copy.deepcopy(model)
    forgetful.generation_config.eos_token_id = tokenizer.pad_token_id
    chat = ChatTestTimeFineTuned(model=forgetful, tokenizer=tokenizer, max_tokens=30)
    expected = ChatTestTimeFineTuned(model=model, tokenizer=tokenizer, max_tokens=30)
    message = chat.invoke("Hello")
    assert message.content == expected.invoke("Hello").content
    assert message.usage_metadata["output_tokens"] < 30
