"""Reject invalid requests in OpenAI's error format, without repeating their contents."""

from __future__ import annotations

import gzip
import json

import pytest
from endpoint import NAME

CANARY = "heliotrope"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": CANARY}]


def chat(**more):
    return {"model": NAME, "messages": MESSAGES, **more}


def text(**more):
    return {"model": NAME, "prompt": CANARY, **more}


def after_call(arguments):
    """Return a chat whose last message calls a function with these arguments."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return chat(messages=[*MESSAGES, {"role": "assistant", "tool_calls": [call]}])


DEEP = '{"a":' * 9999 + "1" + "}" * 9999


def nested(depth):
    part = {"a": 1}
    for _ in range(depth):
        part = {"$and": [part, {"b": 2}]}
    return part


def check(response, status, code, param=None):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert CANARY not in response.text
    return error["message"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "missing_required_parameter"),
        (b"{", "invalid_json"),
        (b'{"model": "tiny", "prompt": "heliotrope" x', "invalid_json"),
        (b"null", "invalid_value"),
        (b"[]", "invalid_value"),
        (b'"text"', "invalid_value"),
        (b"[" * 100_000, "invalid_json"),
        (b"1" * 10_000, "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        ('{"prompt": "é"}'.encode("latin-1"), "invalid_json"),
    ],
)
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_a_body_must_be_a_json_object(client, route, content, code):
    headers = {"Content-Type": "application/json"}
    check(await client.post(route, content=content, headers=headers), 400, code)


async def test_a_body_must_be_declared_as_json(client):
    body = json.dumps(text()).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await client.post(TEXT, content=body, headers={"Content-Type": kind})
        assert "Content-Type: application/json" in check(response, 415, "unsupported_media_type")
    check(await client.post(TEXT, content=body), 415, "unsupported_media_type")


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_an_unknown_model_is_rejected(client, route):
    body = {**(chat() if route == CHAT else text()), "model": "gpt-5"}
    assert NAME in check(await client.post(route, json=body), 404, "model_not_found", "model")
    check(await client.get("/v1/models/gpt-5"), 404, "model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_rejected(client, stream):
    long = f"{CANARY} " * 300
    for route, body in ((TEXT, text(prompt=long)), (CHAT, chat())):
        if route == CHAT:
            body["messages"] = [{"role": "user", "content": long}]
        response = await client.post(route, json={**body, "stream": stream})
        message = check(response, 400, "context_length_exceeded")
        assert "255 tokens" in message
        assert "prompt is too long" in message  # what langchain-openai looks for


UNKNOWN, INVALID = "unknown_parameter", "invalid_value"
MISSING = "missing_required_parameter"
BAD = {
    "an unknown field": (CHAT, chat(temprature=1), UNKNOWN, "temprature"),
    "an unknown field of ttft": (TEXT, text(ttft={"kk": 1}), UNKNOWN, "ttft.kk"),
    "a collection": (TEXT, text(ttft={"collection": "other"}), UNKNOWN, "ttft.collection"),
    "a tenant": (TEXT, text(ttft={"tenant": "b"}), UNKNOWN, "ttft.tenant"),
    "documents": (TEXT, text(ttft={"documents": ["x"]}), UNKNOWN, "ttft.documents"),
    "a retriever": (TEXT, text(retriever="x"), UNKNOWN, "retriever"),
    "missing messages": (CHAT, {"model": NAME}, MISSING, "messages"),
    "an empty conversation": (CHAT, chat(messages=[]), INVALID, "messages"),
    "missing prompt": (TEXT, {"model": NAME}, MISSING, "prompt"),
    "missing model": (TEXT, {"prompt": "x"}, MISSING, "model"),
    "n": (CHAT, chat(n=0), INVALID, "n"),
    "a huge n": (CHAT, chat(n=129), INVALID, "n"),
    "too many answers": (TEXT, text(prompt=["x"] * 300, n=4), INVALID, None),
    "best_of": (TEXT, text(best_of=2), INVALID, "best_of"),
    "echo": (TEXT, text(echo="yes"), INVALID, "echo"),
    "top_logprobs alone": (CHAT, chat(top_logprobs=2), INVALID, None),
    "many top_logprobs": (CHAT, chat(logprobs=True, top_logprobs=21), INVALID, "top_logprobs"),
    "logprobs of a text": (TEXT, text(logprobs=21), INVALID, "logprobs"),
    "two ways to end the prompt": (
        CHAT,
        chat(continue_final_message=True, add_generation_prompt=True),
        INVALID,
        None,
    ),
    "nothing to continue": (CHAT, chat(continue_final_message=True), INVALID, None),
    "top_p": (CHAT, chat(top_p=1.1), INVALID, "top_p"),
    "a penalty": (CHAT, chat(presence_penalty=2.5), INVALID, "presence_penalty"),
    "top_k": (TEXT, text(top_k=-2), INVALID, "top_k"),
    "a repetition penalty": (CHAT, chat(repetition_penalty=0.0), INVALID, "repetition_penalty"),
    "many messages": (CHAT, chat(messages=MESSAGES * 4097), INVALID, "messages"),
    "a logit bias": (CHAT, chat(logit_bias={"5": 1}), INVALID, "logit_bias"),
    "a negative temperature": (CHAT, chat(temperature=-1), INVALID, "temperature"),
    "a temperature as a string": (CHAT, chat(temperature="1"), INVALID, "temperature"),
    "a flag as learning rate": (
        TEXT,
        text(ttft={"learning_rate": True}),
        INVALID,
        "ttft.learning_rate",
    ),
    "a string as flag": (CHAT, chat(stream="yes"), INVALID, "stream"),
    "a number as flag": (CHAT, chat(store=1), INVALID, "store"),
    "a high temperature": (CHAT, chat(temperature=2.1), INVALID, "temperature"),
    "max_tokens": (CHAT, chat(max_tokens=0), INVALID, "max_tokens"),
    "no tokens without echo": (TEXT, text(max_tokens=0), INVALID, None),
    "half a token": (TEXT, text(max_tokens=1.5), INVALID, "max_tokens"),
    "max_tokens as a string": (TEXT, text(max_tokens="many"), INVALID, "max_tokens"),
    "seed": (TEXT, text(seed=1 << 63), INVALID, "seed"),
    "a stop that is no text": (TEXT, text(stop=[1]), INVALID, None),
    "max_tokens below -1": (TEXT, text(max_tokens=-2), INVALID, "max_tokens"),
    "k": (TEXT, text(ttft={"k": 0}), INVALID, "ttft.k"),
    "k as a string": (TEXT, text(ttft={"k": "3"}), INVALID, "ttft.k"),
    "a huge k": (TEXT, text(ttft={"k": 10**9}), INVALID, "ttft.k"),
    "an unknown mode": (TEXT, text(ttft={"mode": "best"}), INVALID, "ttft.mode"),
    "ttft": (TEXT, text(ttft="ttft"), INVALID, "ttft"),
    "a noise variance of 0": (
        TEXT,
        text(ttft={"noise_variance": 0}),
        INVALID,
        "ttft.noise_variance",
    ),
    "a negative learning rate": (
        TEXT,
        text(ttft={"learning_rate": -1}),
        INVALID,
        "ttft.learning_rate",
    ),
    "too many steps": (TEXT, text(ttft={"steps_per_document": 99}), INVALID, None),
    "a filter as a string": (TEXT, text(ttft={"filter": "x"}), INVALID, "ttft.filter"),
    "an unknown operator": (TEXT, text(ttft={"filter": {"a": {"$like": 1}}}), INVALID, None),
    "an empty or": (TEXT, text(ttft={"filter": {"$or": []}}), INVALID, "ttft.filter"),
    "an integer of more than 64 bits": (TEXT, text(ttft={"filter": {"a": 1 << 70}}), INVALID, None),
    "a filter of many conditions": (
        TEXT,
        text(ttft={"filter": {"$or": [{"a": number} for number in range(30_000)]}}),
        INVALID,
        "ttft.filter",
    ),
    "a filter of many values": (
        TEXT,
        text(ttft={"filter": {"a": {"$in": [*range(20_000)]}}}),
        INVALID,
        "ttft.filter",
    ),
    "a deep filter": (TEXT, text(ttft={"filter": nested(40)}), INVALID, "ttft.filter"),
    "an image": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        INVALID,
        None,
    ),
    "an unknown role": (CHAT, chat(messages=[{"role": "critic", "content": "x"}]), INVALID, None),
    "a message without a role": (CHAT, chat(messages=[{"content": "x"}]), MISSING, None),
    "a message without content": (CHAT, chat(messages=[{"role": "user"}]), MISSING, None),
    "a choice without tools": (CHAT, chat(tool_choice="required"), INVALID, None),
    "a choice and no tools": (CHAT, chat(tools=[], tool_choice="required"), INVALID, None),
    "a choice of none of the tools": (
        CHAT,
        chat(
            tools=[{"type": "function", "function": {"name": "find"}}],
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": []},
            },
        ),
        INVALID,
        None,
    ),
    "an unknown format": (CHAT, chat(response_format={"type": "xml"}), INVALID, None),
    "a schema that no decoder supports": (
        CHAT,
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"not": {"type": "string"}}},
            }
        ),
        INVALID,
        None,
    ),
    "no prompts": (TEXT, text(prompt=[]), INVALID, "prompt"),
    "texts and token ids": (TEXT, text(prompt=["a", 1]), INVALID, "prompt"),
    "an empty list of token ids": (TEXT, text(prompt=[[1], []]), INVALID, "prompt"),
    "flags as token ids": (TEXT, text(prompt=[True]), INVALID, "prompt"),
    "an unknown token": (TEXT, text(prompt=[1 << 20]), INVALID, None),
    "a negative token": (TEXT, text(prompt=[-1]), INVALID, None),
    "a tool call without JSON": (CHAT, after_call(f"{{{CANARY}"), INVALID, None),
    "a tool call of deep JSON": (
        CHAT,
        after_call(DEEP),
        INVALID,
        None,
    ),
    "a tool of another provider": (
        CHAT,
        chat(tools=[{"type": "web_search"}]),
        INVALID,
        None,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_invalid_request_is_rejected(client, service, case):
    route, body, code, param = BAD[case]
    response = await client.post(route, json=body)
    if param is None:
        param = response.json()["error"]["param"]
    check(response, 400, code, param)
    assert service.engine.status().admitted == 0


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        ({"functions": []}, "functions: use tools"),
        ({"temprature": 1}, "temprature: leave it out"),
        ({"logit_bias": {"5": 1}}, "biases no tokens: leave it out"),
        ({"suffix": "x"}, "leave it out"),
        ({"suffix": ["x"]}, "leave it out"),
        ({"tool_choice": {"type": "x"}}, "tool_choice.type: must be one of 'function', 'allowed_"),
    ],
)
async def test_the_message_says_the_cure(client, more, cure):
    body = text(**more) if "suffix" in more else chat(**more)
    response = await client.post(TEXT if "suffix" in more else CHAT, json=body)
    assert cure in response.json()["error"]["message"]


async def test_an_unknown_route_is_told_the_routes(client):
    assert "chat/completions" in check(await client.post("/chat/completions"), 404, "not_found")
    assert "POST only" in check(await client.get(CHAT), 405, "method_not_allowed")


WITHOUT_EFFECT = {
    "n": 1,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "user": "someone",
    "metadata": {"a": "b"},
    "store": False,
    "stop": None,
    "stream": False,
    "stream_options": None,
    "seed": -5,
    "ttft": None,
    "cache_control": {"type": "ephemeral"},
    "service_tier": "auto",
    "prediction": {"type": "content", "content": "x"},
    "parallel_tool_calls": True,
}


async def test_fields_without_effect_are_accepted(client):
    for route, body in (
        (
            CHAT,
            chat(
                **WITHOUT_EFFECT,
                logprobs=False,
                top_logprobs=0,
                verbosity="low",
                response_format={"type": "text"},
            ),
        ),
        (TEXT, text(**WITHOUT_EFFECT, echo=False, best_of=1, suffix="")),
    ):
        response = await client.post(route, json=body)
        assert response.status_code == 200, response.text


LENIENT = {
    "max_tokens": [-1, 4.0],
    "stop": ["", [], [""], ["\n", ""]],
    "seed": [7.0],
    "top_k": [5.0, -1.0],
    "n": [1.0, 2],
    "ttft": [{"k": 2.0}, {"steps_per_document": 1.0}],
}


@pytest.mark.parametrize("field", LENIENT)
async def test_forms_of_ordinary_clients_are_accepted(client, field):
    for value in LENIENT[field]:
        for route, body in ((CHAT, chat(**{field: value})), (TEXT, text(**{field: value}))):
            response = await client.post(route, json=body)
            assert response.status_code == 200, (field, value, response.text)


@pytest.mark.slow
async def test_an_answer_without_a_limit_fills_the_context(client, service):
    most = service.engine.language_model.context_length
    for route, body in ((CHAT, chat(max_tokens=-1)), (TEXT, text(max_tokens=-1))):
        content = (await client.post(route, json=body)).json()
        choice, usage = content["choices"][0], content["usage"]
        assert usage["total_tokens"] == most or choice["finish_reason"] == "stop"
        assert usage["completion_tokens"] > service.settings.max_tokens
    asked = {"model": NAME, "input": "Hello", "max_output_tokens": -1, "ttft": {"mode": "base"}}
    content = (await client.post("/v1/responses", json=asked)).json()
    assert content["max_output_tokens"] is None
    assert content["usage"]["output_tokens"] > service.settings.max_tokens


async def test_best_of_as_many_as_n_leaves_no_answer_out(client):
    response = await client.post(TEXT, json=text(n=2, best_of=2, max_tokens=1))
    assert len(response.json()["choices"]) == 2
    response = await client.post(TEXT, json=text(n=2, best_of=3, max_tokens=1))
    check(response, 400, "invalid_value", "best_of")


async def test_conversations_of_ordinary_clients_are_accepted(client):
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": ""}}
    tool = {"type": "function", "function": {"name": "now"}, "cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [part]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    response = await client.post(
        CHAT, json=chat(messages=messages, tools=[tool], tool_choice="none")
    )
    assert response.status_code == 200, response.text


async def test_an_image_is_told_what_the_model_reads(client):
    image = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    response = await client.post(CHAT, json=chat(messages=[{"role": "user", "content": image}]))
    message = check(response, 400, "invalid_value", "messages.0.content")
    assert "this model reads text only" in message


def case_of(messages=None, **more):
    return {**chat(**more), **({} if messages is None else {"messages": messages})}


PLACES = {
    "messages.0.content": case_of([{"role": "user", "content": 5}]),
    "messages.1.content.0.text": case_of(
        [*MESSAGES, {"role": "user", "content": [{"type": "text", "text": 5}]}]
    ),
    "messages.0.role": case_of([{"content": "x"}]),
    "messages.1.role": case_of([*MESSAGES, {"role": "critic", "content": "x"}]),
    "messages.1.tool_call_id": case_of([*MESSAGES, {"role": "tool", "content": "x"}]),
    "stop.1": chat(stop=["a", 5]),
    "tool_choice.function": chat(tool_choice={"type": "function"}),
    "response_format.json_schema.schema": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x"}}
    ),
    "prompt.1.0": text(prompt=[[1], [-1]]),
    "ttft.mode": text(ttft={"mode": "fast"}),
}


@pytest.mark.parametrize("place", PLACES)
async def test_an_error_names_the_field_as_the_client_sent_it(client, place):
    body = PLACES[place]
    response = await client.post(TEXT if "prompt" in body else CHAT, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == place
    assert place in response.json()["error"]["message"]


async def test_an_error_names_all_values_or_the_limit(client):
    for body, word in (
        (chat(ttft={"mode": "fast"}), "'auto'"),
        (chat(stop=["a"] * 17), "at most 16"),
        (chat(messages=[{"role": "critic", "content": "x"}]), "'developer'"),
    ):
        response = await client.post(CHAT, json=body)
        assert word in check(response, 400, "invalid_value", response.json()["error"]["param"])


async def test_the_largest_filters_are_answered(client):
    many = {"$or": [{"a": number} for number in range(249)]}
    for condition in (many, {"a": {"$in": [*range(9_000)]}}, nested(14)):
        response = await client.post(TEXT, json=text(ttft={"mode": "rag", "filter": condition}))
        assert response.status_code == 200, response.text


async def test_a_field_that_is_null_counts_as_left_out(client):
    nulls = {"functions": None, "audio": None, "stream_options": {"include_usage": None}}
    for route, body in ((CHAT, chat(**nulls)), (TEXT, text(**nulls))):
        response = await client.post(route, json=body)
        assert response.status_code == 200, response.text
    response = await client.post(CHAT, json=chat(messages=None))
    check(response, 400, "missing_required_parameter", "messages")


async def test_a_compressed_body_is_told_so(client):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.post(TEXT, content=gzip.compress(b"{}"), headers=headers)
    assert "compressed" in check(response, 415, "unsupported_media_type")


async def test_head_has_the_status_and_the_headers_of_get(client):
    for path, status in (("/health", 200), ("/v1/models", 200), (CHAT, 405)):
        response = await client.head(path)
        assert response.status_code == status
        assert (await client.get(path)).headers["content-type"] == response.headers["content-type"]


async def test_unknown_routes_and_methods_are_rejected(client):
    check(await client.get("/v1/audio"), 404, "not_found")
    check(await client.get("/"), 404, "not_found")
    response = await client.get(CHAT)
    check(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    check(await client.delete("/v1/models"), 405, "method_not_allowed")


async def test_a_body_that_is_too_large_is_not_read(client, service):
    most = service.settings.max_body_bytes
    check(await client.post(TEXT, json=text(prompt="x" * most)), 413, "request_too_large")
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(100):
            sent += most // 4
            yield b"x" * (most // 4)

    response = await client.post(TEXT, content=endless())
    check(response, 413, "request_too_large")
    assert sent < 2 * most
    assert service.engine.status().admitted == 0


async def test_an_unexpected_error_reveals_nothing(client, service, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError(CANARY)

    monkeypatch.setattr(type(service.engine), "request", fail)
    for body in (text(), text(stream=True)):
        response = await client.post(TEXT, json=body)
        assert check(response, 500, "internal_error") == "internal error"
    assert "RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert CANARY not in caplog.text.replace("raise RuntimeError(CANARY)", "")
