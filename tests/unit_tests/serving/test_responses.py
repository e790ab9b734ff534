"""OpenAI's newer API gives the answers of the older one, in its own form."""

from __future__ import annotations

import json

import pytest
from endpoint import NAME
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

ROUTE, CHAT = "/v1/responses", "/v1/chat/completions"
IMAGE = {"role": "user", "content": [{"type": "input_image"}]}
QUESTION = "Who repairs the broken clock near the border?"


def text_of(response):
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


async def events_of(client, **body):
    lines = (await client.post(ROUTE, json={"model": NAME, "stream": True, **body})).text
    events = [line.removeprefix("data: ") for line in lines.splitlines() if line[:5] == "data:"]
    names = [line.removeprefix("event: ") for line in lines.splitlines() if line[:6] == "event:"]
    assert events.pop() == "[DONE]"
    found = [json.loads(event) for event in events]
    assert [event["type"] for event in found] == names
    return found


@pytest.mark.parametrize("mode", ["base", "ttft", "both"])
async def test_the_answer_is_that_of_a_chat(client, mode):
    options = {"model": NAME, "ttft": {"mode": mode, "k": 2}}
    asked = {"instructions": "Be brief.", "input": QUESTION, "max_output_tokens": 6}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    chat = (await client.post(CHAT, json={**options, "messages": messages, "max_tokens": 6})).json()
    response = await client.post(ROUTE, json={**options, **asked})
    assert response.status_code == 200, response.text
    found = response.json()
    assert text_of(found) == chat["choices"][0]["message"]["content"]
    assert found["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert found["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    assert found["ttft"]["documents"] == chat["ttft"]["documents"]
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in found["output"]] == ["incomplete"]
    events = await events_of(client, **{**options, **asked})
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == text_of(found)
    assert events[-1]["type"] == "response.incomplete"
    assert text_of(events[-1]["response"]) == text_of(found)
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["incomplete"]
    (done,) = [event for event in events if event["type"] == "response.output_item.done"]
    assert done["item"]["status"] == "incomplete"
    assert events[-1]["response"]["usage"] == found["usage"]


async def test_items_are_the_messages_of_a_chat(client):
    call = {"name": "now", "arguments": "{}"}
    tool = {"name": "now", "description": "The time.", "parameters": {"type": "object"}}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "What time is it?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "1", "id": "fc_1", **call},
        {"type": "function_call_output", "call_id": "1", "output": "noon"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Noon"}],
        },
        {"role": "user", "content": "And then?"},
    ]
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
        {"role": "assistant", "content": "Noon"},
        {"role": "user", "content": "And then?"},
    ]
    shared = {"model": NAME, "ttft": {"mode": "base"}, "tool_choice": "none"}
    response = await client.post(
        ROUTE, json={**shared, "input": items, "tools": [{"type": "function", **tool}]}
    )
    assert response.status_code == 200, response.text
    tools = [{"type": "function", "function": tool}]
    chat = await client.post(CHAT, json={**shared, "messages": messages, "tools": tools})
    assert text_of(response.json()) == chat.json()["choices"][0]["message"]["content"]
    assert response.json()["usage"]["input_tokens"] == chat.json()["usage"]["prompt_tokens"]


def nested(depth):
    part = []
    for _ in range(depth):
        part = [part]
    return part


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "unknown_parameter", "previous_response_id"),
        ({"background": True}, "invalid_value", "background"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools.0.type"),
        ({"input": []}, "invalid_value", None),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "invalid_value", "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "invalid_value",
            "input.0.content",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
            "invalid_value",
            "text.format.name",
        ),
        ({"input": QUESTION * 200}, "context_length_exceeded", None),
        ({"metadata": {"a": nested(400)}}, "invalid_value", None),
        ({"instructions": "\ud800"}, "invalid_value", None),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"model": "gpt-5"}, "model_not_found", "model"),
    ],
    ids=str,
)
async def test_invalid_requests_are_rejected(client, service, more, code, param):
    for stream in (False, True):
        body = {"model": NAME, "input": "Hello", "stream": stream, **more}
        content = json.dumps(body).encode()  # httpx cannot write a lone surrogate
        headers = {"Content-Type": "application/json"}
        response = await client.post(ROUTE, content=content, headers=headers)
        assert response.status_code in {400, 404}, response.text
        error = response.json()["error"]
        assert error["code"] == code
        assert param is None or error["param"] == param
    assert service.engine.status().admitted == 0


@pytest.mark.slow
async def test_a_stream_that_fails_begins_and_ends(new_service, connect):
    client = await connect(new_service(status_seconds=1e-6))  # the headers come first
    events = await events_of(client, input="Hello", ttft={"timeout": 1e-9})
    kinds = ["response.created", "response.in_progress", "response.failed"]
    assert [event["type"] for event in events] == kinds
    state = ResponseStreamState(text_format=omit, input_tools=omit)  # of OpenAI's client
    for event in events:
        read = TypeAdapter(ResponseStreamEvent).validate_python(event)
        assert state.handle_event(read) == [read]
    failed = events[-1]["response"]
    assert failed["status"] == "failed"
    assert (failed["error"]["code"], failed["error"]["type"]) == ("server_error", "timeout")
    assert failed["error"]["param"] == "ttft.timeout"


async def test_fields_that_are_null_and_log_probabilities_by_include(client):
    nulls = {"previous_response_id": None, "conversation": None, "prompt": None}
    include = ["message.output_text.logprobs"]
    body = {"model": NAME, "input": "Hello", "ttft": {"mode": "base"}, "include": include, **nulls}
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["output"][0]["content"][0]["logprobs"]
