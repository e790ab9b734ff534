"""Use the endpoint with the clients of OpenAI and LangChain."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from endpoint import NAME, Endpoint, fill_collection, make_settings, run_endpoint
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from openai import OpenAI as Client
from unit_tests.tool_model import (
    JOKE,
    PLACE,
    TWICE,
    WEATHER,
    Joke,
    get_weather,
    make_tool_model,
)

from langchain_sift import HiddenStateEmbeddings, SIFTRetriever
from langchain_sift.serving import Tenants
from langchain_sift.ttft import load_language_model

KEY = "a-key-that-is-long-enough"
HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Hello! How are you?"
FINE_TUNE = {"ttft": {"mode": "ttft", "learning_rate": 1e-6, "k": 2}}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    model, tokenizer = make_tool_model()
    folder = tmp_path_factory.mktemp("tool-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(model_folder, texts, tmp_path_factory) -> Iterator[Endpoint]:
    """Return an endpoint of a model that calls tools, with the mode "base" by default."""
    store = tmp_path_factory.mktemp("store")
    model = load_language_model(model_folder, dtype="float32")
    mean = HiddenStateEmbeddings(model).fit(texts).mean
    fill_collection(texts, str(model_folder), mean, folder=store)
    settings = make_settings(
        model_folder,
        store,
        mode="base",
        max_tokens=100,
        tenants=Tenants.of_one_key(KEY),
    )
    with run_endpoint(settings) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint) -> Iterator[Client]:
    with Client(base_url=f"{endpoint.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(endpoint):
    async with AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def chat(endpoint):
    """Return LangChain's client, and close its connections at the end."""
    with httpx.Client() as connections:
        async with httpx.AsyncClient() as aconnections:
            yield ChatOpenAI(
                model=NAME,
                base_url=f"{endpoint.url}/v1",
                api_key=KEY,
                max_retries=0,
                http_client=connections,
                http_async_client=aconnections,
            )


# OpenAI's client


def test_chat(client):
    response = client.chat.completions.create(model=NAME, messages=HELLO)
    (choice,) = response.choices
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert (
        response.usage.total_tokens
        == response.usage.prompt_tokens + response.usage.completion_tokens
    )
    assert response.object == "chat.completion"
    assert response._request_id
    assert response.ttft["mode"] == "base"


def test_options_and_record_of_the_fine_tuning(client):
    response = client.chat.completions.create(model=NAME, messages=HELLO, extra_body=FINE_TUNE)
    assert response.choices[0].message.content == ANSWER
    assert len(response.ttft["documents"]) == 2
    assert response.ttft["steps"] == 2


def test_stream(client):
    options = {"include_usage": True}
    with client.chat.completions.create(
        model=NAME, messages=HELLO, stream=True, stream_options=options, extra_body=FINE_TUNE
    ) as stream:
        chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == ANSWER
    assert len(texts) > 3
    assert chunks[-1].usage.completion_tokens > 3
    assert chunks[-1].ttft["steps"] == 2
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_async(aclient):
    response = await aclient.chat.completions.create(model=NAME, messages=HELLO)
    assert response.choices[0].message.content == ANSWER
    stream = await aclient.chat.completions.create(model=NAME, messages=HELLO, stream=True)
    async with stream:
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == ANSWER


async def test_texts(client, aclient):
    plain = client.completions.create(model=NAME, prompt="Hello", max_tokens=5)
    assert plain.usage.completion_tokens == 5
    assert plain.choices[0].finish_reason == "length"
    with client.completions.create(model=NAME, prompt="Hello", max_tokens=5, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == plain.choices[0].text
    response = await aclient.completions.create(model=NAME, prompt=["Hello"], max_tokens=5)
    assert response.choices[0].text == plain.choices[0].text


def test_several_answers(client):
    response = client.chat.completions.create(
        model=NAME, messages=HELLO, n=2, logprobs=True, top_logprobs=2, extra_body=FINE_TUNE
    )
    assert [choice.message.content for choice in response.choices] == [ANSWER] * 2
    assert response.ttft["steps"] == 2  # trained once
    tokens = response.choices[1].logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == ANSWER
    assert tokens[0].top_logprobs[0].logprob >= tokens[0].logprob
    with client.chat.completions.stream(
        model=NAME, messages=HELLO, n=2, logprobs=True, extra_body=FINE_TUNE
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion()
    assert [choice.message.content for choice in streamed.choices] == [ANSWER] * 2
    assert len(streamed.choices[0].logprobs.content) == len(tokens)


def test_prompts_of_texts_and_token_ids(client, endpoint):
    tokenizer = endpoint.service.engine.language_model.tokenizer
    texts = ["Hello", "The river"]
    whole = client.completions.create(model=NAME, prompt=texts, max_tokens=3, echo=True, logprobs=1)
    assert [
        choice.text[: len(text)] for choice, text in zip(whole.choices, texts, strict=True)
    ] == texts
    assert whole.choices[0].logprobs.token_logprobs[0] is None
    ids = [tokenizer.encode(text) for text in texts]
    same = client.completions.create(model=NAME, prompt=ids, max_tokens=3, echo=True, logprobs=1)
    assert [choice.text for choice in same.choices] == [choice.text for choice in whole.choices]


def test_the_beginning_of_an_answer_is_continued(client):
    begun = [*HELLO, {"role": "assistant", "content": ANSWER[:6]}]
    response = client.chat.completions.create(model=NAME, messages=begun)
    assert response.choices[0].message.content == ANSWER[6:]


def test_responses(client):
    response = client.responses.create(model=NAME, input="Hello", extra_body=FINE_TUNE)
    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.usage.total_tokens == (
        response.usage.input_tokens + response.usage.output_tokens
    )
    assert response.ttft["steps"] == 2
    with client.responses.stream(model=NAME, input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == ANSWER
    parsed = client.responses.parse(
        model=NAME, input="Tell me a joke about cats.", text_format=Joke
    )
    assert isinstance(parsed.output_parsed, Joke)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_of_responses(client, streamed):
    function = convert_to_openai_tool(get_weather)["function"]
    asked = {
        "model": NAME,
        "input": WEATHER,
        "tools": [{"type": "function", **function}],
        "tool_choice": "required",
    }
    if streamed:
        with client.responses.stream(**asked) as stream:
            for _ in stream:
                pass
            response = stream.get_final_response()
    else:
        response = client.responses.create(**asked)
    (call,) = response.output
    assert json.loads(call.arguments) == {"location": PLACE}
    items = [{"role": "user", "content": WEATHER}, call.model_dump(exclude={"parsed_arguments"})]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "It's sunny."})
    asked |= {"input": items, "tool_choice": "auto"}
    assert client.responses.create(**asked).output_text == "It is sunny there."


def test_errors_of_responses(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=NAME, input="Hello " * 1100)
    assert raised.value.code == "context_length_exceeded"


async def test_embeddings(client, aclient):
    floats = client.embeddings.create(model=NAME, input=["Hello", "hi"], encoding_format="float")
    packed = await aclient.embeddings.create(model=NAME, input=["Hello", "hi"])  # as base64
    for one, other in zip(floats.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert sum(value * value for value in one.embedding) == pytest.approx(1)


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-5")
    assert raised.value.code == "model_not_found"


def test_tools(client):
    messages = [{"role": "user", "content": WEATHER}]
    tools = [convert_to_openai_tool(get_weather)]
    response = client.chat.completions.create(
        model=NAME, messages=messages, tools=tools, tool_choice="required"
    )
    (choice,) = response.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"location": PLACE}
    # What the client sends back is its own object, with whatever it put into it.
    result = {"role": "tool", "tool_call_id": call.id, "content": "It's sunny."}
    response = client.chat.completions.create(
        model=NAME, messages=[*messages, choice.message, result], tools=tools
    )
    assert response.choices[0].message.content == "It is sunny there."
    named = {"type": "function", "function": {"name": "get_weather"}}
    response = client.chat.completions.create(
        model=NAME, messages=messages, tools=tools, tool_choice=named, parallel_tool_calls=False
    )
    assert len(response.choices[0].message.tool_calls) == 1
    response = client.chat.completions.create(
        model=NAME, messages=messages, tools=tools, tool_choice="none"
    )
    assert response.choices[0].message.tool_calls is None


@pytest.mark.parametrize("parallel", [None, False])
def test_several_tool_calls_in_a_stream(client, parallel):
    options = {} if parallel is None else {"parallel_tool_calls": parallel}
    with client.chat.completions.stream(
        model=NAME,
        messages=[{"role": "user", "content": TWICE}],
        tools=[convert_to_openai_tool(get_weather)],
        **options,
    ) as stream:
        for _ in stream:
            pass
        response = stream.get_final_completion()
    (choice,) = response.choices
    calls = [json.loads(call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [{"location": "Rome"}, {"location": "Oslo"}][: 1 if parallel is False else 2]
    assert choice.message.content == "I look."
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_follows_a_schema(client, stream):
    request = {
        "model": NAME,
        "messages": [{"role": "user", "content": "Tell me a joke about cats."}],
        "response_format": Joke,
    }
    if stream:
        with client.chat.completions.stream(**request) as events:
            for _ in events:
                pass
            response = events.get_final_completion()
    else:
        response = client.chat.completions.parse(**request)
    assert isinstance(response.choices[0].message.parsed, Joke)
    assert response.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found"),
        ({"n": 129}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"ttft": {"kk": 1}}}, openai.BadRequestError, "unknown_parameter"),
        (
            {"messages": [{"role": "user", "content": "Hello " * 1100}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (
            {"extra_body": {"ttft": {"timeout": 1e-9}}},
            openai.APIStatusError,
            "timeout",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_client_raises_its_own_errors(client, fields, error, code, stream):
    with pytest.raises(error) as raised:
        client.chat.completions.create(
            **{"model": NAME, "messages": HELLO, "stream": stream, **fields}
        )
    assert raised.value.code == code


def test_a_wrong_key(endpoint):
    with (
        Client(base_url=f"{endpoint.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model=NAME, messages=HELLO)


# LangChain's client


async def test_langchain_s_client(chat):
    message = chat.invoke("Hello")
    assert message.text == ANSWER
    assert message.usage_metadata["output_tokens"] > 3
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == NAME
    assert (await chat.ainvoke("Hello")).text == ANSWER
    assert "".join(chunk.text for chunk in chat.stream("Hello")) == ANSWER
    chunks = [chunk async for chunk in chat.astream("Hello", stream_usage=True)]
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    assert [message.text for message in chat.batch(["Hello", "hi", "Hey"])] == [ANSWER] * 3
    assert [message.text for message in await chat.abatch(["Hello", "hi"])] == [ANSWER] * 2
    conversation = [HumanMessage("hello"), AIMessage("hello"), HumanMessage("how are you")]
    assert (await chat.ainvoke(conversation)).text == "I am well."
    assert chat.invoke([SystemMessage("hello\nhello"), *conversation]).text


async def test_langchain_s_client_sends_options(chat):
    fine_tuned = chat.bind(extra_body=FINE_TUNE)
    assert fine_tuned.invoke("Hello").text == ANSWER
    assert "".join([chunk.text async for chunk in fine_tuned.astream("Hello")]) == ANSWER
    assert (
        ChatOpenAI(
            model=NAME,
            base_url=chat.openai_api_base,
            api_key=KEY,
            http_client=chat.http_client,
            http_async_client=chat.http_async_client,
            extra_body=FINE_TUNE,
            max_tokens=3,
            temperature=0.0,
            seed=3,
            stop=["never"],
        )
        .invoke("Hello")
        .text
    )


async def test_langchain_s_tools(chat):
    for model in (
        chat.bind_tools([get_weather], tool_choice="any"),
        chat.bind_tools([get_weather], tool_choice="get_weather"),
        chat.bind_tools([get_weather], parallel_tool_calls=False),
    ):
        for message in (model.invoke(WEATHER), await model.ainvoke(WEATHER)):
            (call,) = message.tool_calls
            assert (call["name"], call["args"]) == ("get_weather", {"location": PLACE})
        whole = None
        async for chunk in model.astream(WEATHER):
            whole = chunk if whole is None else whole + chunk
        (call,) = whole.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"location": PLACE})
    conversation = [
        HumanMessage(WEATHER),
        message,
        ToolMessage("It's sunny.", tool_call_id=call["id"]),
    ]
    conversation[1] = AIMessage("", tool_calls=[{**call, "type": "tool_call"}])
    assert chat.bind_tools([get_weather]).invoke(conversation).text == "It is sunny there."


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
async def test_langchain_s_structured_output(chat, method):
    model = chat.with_structured_output(Joke, method=method)
    joke = model.invoke("Tell me a joke about cats.")
    assert isinstance(joke, Joke)
    assert joke == await model.ainvoke("Tell me a joke about cats.")
    assert method == "json_schema" or joke == Joke(**JOKE)  # which the model has learnt


async def test_langchain_s_client_with_the_newer_api(chat):
    newer = chat.model_copy(update={"use_responses_api": True})
    message = newer.invoke("Hello")
    assert message.text == ANSWER
    assert message.usage_metadata["output_tokens"] > 3
    assert "".join([chunk.text async for chunk in newer.astream("Hello")]) == ANSWER
    model = newer.bind_tools([get_weather], tool_choice="get_weather")
    called = await model.ainvoke(WEATHER)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"location": PLACE})
    result = ToolMessage("It's sunny.", tool_call_id=call["id"])
    answer = newer.bind_tools([get_weather]).invoke([HumanMessage(WEATHER), called, result])
    assert answer.text == "It is sunny there."
    joke = newer.with_structured_output(Joke, method="json_schema").invoke("A joke about cats.")
    assert isinstance(joke, Joke)


async def test_langchain_s_log_probabilities(chat):
    message = await chat.bind(logprobs=True, top_logprobs=1).ainvoke("Hello")
    content = message.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == ANSWER


async def test_langchain_s_embeddings(endpoint):
    with httpx.Client() as connections:
        embeddings = OpenAIEmbeddings(
            model=NAME,
            base_url=f"{endpoint.url}/v1",
            api_key=KEY,
            check_embedding_ctx_length=False,  # otherwise it sends tokens of another model
            http_client=connections,
        )
        view = endpoint.service.view_of(endpoint.service.settings.tenants.members[0])
        expected = view.retriever.vectorstore.embeddings.embed_query("Hello")
        assert embeddings.embed_query("Hello") == pytest.approx(expected, abs=1e-6)


async def test_langchain_s_text_client(endpoint):
    with httpx.Client() as connections:
        llm = OpenAI(
            model=NAME,
            base_url=f"{endpoint.url}/v1",
            api_key=KEY,
            max_retries=0,
            http_client=connections,
            max_tokens=5,
            temperature=0,
        )
        text = llm.invoke("Hello")
        assert text
        assert "".join(llm.stream("Hello")) == text


def test_the_server_answers_as_the_model_in_process(chat, endpoint):
    view = endpoint.service.view_of(endpoint.service.settings.tenants.members[0])
    assert isinstance(view.retriever, SIFTRetriever)
    for question in ("Hello", "hi", "hello"):
        assert view.chat.invoke(question, documents=[]).text == chat.invoke(question).text
