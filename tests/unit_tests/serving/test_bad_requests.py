"""What cannot be answered is refused in OpenAI's shape, and nothing of it is repeated."""

from __future__ import annotations

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
    ],
)
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_what_is_no_json_object(client, route, content, code):
    headers = {"Content-Type": "application/json"}
    check(await client.post(route, content=content, headers=headers), 400, code)


async def test_a_body_that_is_not_called_json(client):
    body = json.dumps(text()).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await client.post(TEXT, content=body, headers={"Content-Type": kind})
        check(response, 400, "invalid_value")


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_another_model(client, route):
    body = {**(chat() if route == CHAT else text()), "model": "gpt-5"}
    assert NAME in check(await client.post(route, json=body), 404, "model_not_found", "model")
    check(await client.get("/v1/models/gpt-5"), 404, "model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_fills_the_context(client, stream):
    long = f"{CANARY} " * 300
    for route, body in ((TEXT, text(prompt=long)), (CHAT, chat())):
        if route == CHAT:
            body["messages"] = [{"role": "user", "content": long}]
        response = await client.post(route, json={**body, "stream": stream})
        assert "255 tokens" in check(response, 400, "context_length_exceeded")


UNKNOWN = "unknown_parameter"
BAD = {
    "an unknown field": (CHAT, chat(temprature=1), UNKNOWN, "temprature"),
    "an unknown field of ttft": (TEXT, text(ttft={"kk": 1}), UNKNOWN, "ttft.kk"),
    "a collection": (TEXT, text(ttft={"collection": "other"}), UNKNOWN, "ttft.collection"),
    "a tenant": (TEXT, text(ttft={"tenant": "b"}), UNKNOWN, "ttft.tenant"),
    "documents": (TEXT, text(ttft={"documents": ["x"]}), UNKNOWN, "ttft.documents"),
    "a retriever": (TEXT, text(retriever="x"), UNKNOWN, "retriever"),
    "no messages": (CHAT, {"model": NAME}, "missing_required_parameter", "messages"),
    "an empty conversation": (CHAT, chat(messages=[]), "invalid_value", "messages"),
    "no prompt": (TEXT, {"model": NAME}, "missing_required_parameter", "prompt"),
    "no model": (TEXT, {"prompt": "x"}, "missing_required_parameter", "model"),
    "n": (CHAT, chat(n=2), "invalid_value", "n"),
    "n of a text": (TEXT, text(n=3), "invalid_value", "n"),
    "best_of": (TEXT, text(best_of=2), "invalid_value", "best_of"),
    "echo": (TEXT, text(echo=True), "invalid_value", "echo"),
    "logprobs": (CHAT, chat(logprobs=True), "invalid_value", "logprobs"),
    "logprobs of a text": (TEXT, text(logprobs=1), "invalid_value", "logprobs"),
    "top_p": (CHAT, chat(top_p=0.9), "invalid_value", "top_p"),
    "a penalty": (CHAT, chat(presence_penalty=0.5), "invalid_value", "presence_penalty"),
    "a bias": (CHAT, chat(logit_bias={"5": 1}), "invalid_value", "logit_bias"),
    "temperature": (CHAT, chat(temperature=-1), "invalid_value", "temperature"),
    "a temperature of words": (CHAT, chat(temperature="1"), "invalid_value", "temperature"),
    "a flag for a rate": (
        TEXT,
        text(ttft={"learning_rate": True}),
        "invalid_value",
        "ttft.learning_rate",
    ),
    "a word for a flag": (CHAT, chat(stream="yes"), "invalid_value", "stream"),
    "a number for a flag": (CHAT, chat(store=1), "invalid_value", "store"),
    "hot": (CHAT, chat(temperature=2.1), "invalid_value", "temperature"),
    "max_tokens": (TEXT, text(max_tokens=0), "invalid_value", "max_tokens"),
    "half a token": (TEXT, text(max_tokens=1.5), "invalid_value", "max_tokens"),
    "words": (TEXT, text(max_tokens="many"), "invalid_value", "max_tokens"),
    "seed": (TEXT, text(seed=1 << 63), "invalid_value", "seed"),
    "an empty stop": (TEXT, text(stop=""), "invalid_value", "stop"),
    "an empty stop among others": (TEXT, text(stop=["a", ""]), "invalid_value", "stop"),
    "k": (TEXT, text(ttft={"k": 0}), "invalid_value", "ttft.k"),
    "k of words": (TEXT, text(ttft={"k": "3"}), "invalid_value", "ttft.k"),
    "a huge k": (TEXT, text(ttft={"k": 10**9}), "invalid_value", "ttft.k"),
    "a mode": (TEXT, text(ttft={"mode": "best"}), "invalid_value", "ttft.mode"),
    "ttft": (TEXT, text(ttft="ttft"), "invalid_value", "ttft"),
    "noise": (TEXT, text(ttft={"noise_variance": 0}), "invalid_value", "ttft.noise_variance"),
    "a rate": (TEXT, text(ttft={"learning_rate": -1}), "invalid_value", "ttft.learning_rate"),
    "steps": (TEXT, text(ttft={"steps_per_document": 99}), "invalid_value", None),
    "a filter": (TEXT, text(ttft={"filter": "x"}), "invalid_value", "ttft.filter"),
    "an operator": (TEXT, text(ttft={"filter": {"a": {"$like": 1}}}), "invalid_value", None),
    "an empty or": (TEXT, text(ttft={"filter": {"$or": []}}), "invalid_value", "ttft.filter"),
    "a large number": (TEXT, text(ttft={"filter": {"a": 1 << 70}}), "invalid_value", None),
    "an image": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "invalid_value",
        None,
    ),
    "a role": (CHAT, chat(messages=[{"role": "critic", "content": "x"}]), "invalid_value", None),
    "a message without role": (CHAT, chat(messages=[{"content": "x"}]), "invalid_value", None),
    "no content": (CHAT, chat(messages=[{"role": "user"}]), "missing_required_parameter", None),
    "a choice without tools": (CHAT, chat(tool_choice="required"), "invalid_value", None),
    "json_object": (CHAT, chat(response_format={"type": "json_object"}), "invalid_value", None),
    "several prompts": (TEXT, text(prompt=["a", "b"]), "invalid_value", None),
    "tokens": (TEXT, text(prompt=[1, 2, 3]), "invalid_value", None),
    "a call without JSON": (
        CHAT,
        chat(
            messages=[
                *MESSAGES,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": f"{{{CANARY}"},
                        }
                    ],
                },
            ]
        ),
        "invalid_value",
        None,
    ),
    "tools without a template": (
        CHAT,
        chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        "invalid_value",
        None,
    ),
    "a tool of another provider": (
        CHAT,
        chat(tools=[{"type": "web_search"}]),
        "invalid_value",
        None,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_done(client, service, case):
    route, body, code, param = BAD[case]
    response = await client.post(route, json=body)
    if param is None:
        param = response.json()["error"]["param"]
    check(response, 400, code, param)
    assert service.engine.status().admitted == 0


ASKING_FOR_NOTHING = {
    "n": 1,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "user": "someone",
    "metadata": {"a": "b"},
    "store": False,
    "stop": None,
    "stream": False,
    "stream_options": None,
    "seed": -5,
    "ttft": None,
}


async def test_what_changes_nothing_is_taken(client):
    for route, body in (
        (CHAT, chat(**ASKING_FOR_NOTHING, logprobs=False, response_format={"type": "text"})),
        (TEXT, text(**ASKING_FOR_NOTHING, echo=False, best_of=1, suffix=None)),
    ):
        response = await client.post(route, json=body)
        assert response.status_code == 200, response.text


async def test_there_is_no_such_route_or_method(client):
    check(await client.get("/v1/embeddings"), 404, "not_found")
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


async def test_an_error_that_nobody_expected_tells_nothing(client, service, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError(CANARY)

    monkeypatch.setattr(type(service.engine), "request", fail)
    for body in (text(), text(stream=True)):
        response = await client.post(TEXT, json=body)
        assert check(response, 500, "internal_error") == "internal error"
    assert "RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert CANARY not in caplog.text.replace("raise RuntimeError(CANARY)", "")
