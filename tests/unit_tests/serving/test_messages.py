"""What a client puts together from a stream is what it gets at once, whatever the model writes."""

from __future__ import annotations

import itertools
import json

import pytest

from langchain_sift.language_models.chat_reply import ChatAnswer
from langchain_sift.serving.messages import ChatReply
from langchain_sift.serving.requests import ChatCompletionRequest

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "Joke", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "Joke", "schema": SCHEMA}}
ASKED = {
    "tools": {"tools": [TOOL]},
    "one call at a time": {"tools": [TOOL], "parallel_tool_calls": False},
    "a schema": {"response_format": FORMAT},
}
PARTS = [
    "I look. ",
    '<tool_call>{"name": "Joke", "arguments": {"name": "Zoë 雪"}}</tool_call>',
    '<tool_call>{"name": "Joke", "arguments": {"name": "two"}}</tool_call>',
    "<tool_call>[1]</tool_call>",
]


class Said(list):
    """Stands in for an answer whose text is known."""

    usage = metadata = None
    finish_reason = "stop"


def reply_and_reading(asked, text, tokenizer):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **ASKED[asked]}
    pieces = Said(text[start : start + 3] for start in range(0, len(text), 3))
    pieces.tokenizer = tokenizer
    reading = ChatAnswer(pieces, [TOOL], must_call=False, model_name="m")
    return ChatReply(ChatCompletionRequest.model_validate(body)), reading


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    "parts", [chosen for n in (1, 2, 3, 4) for chosen in itertools.combinations(PARTS, n)]
)
def test_a_stream_is_the_whole_answer(tiny_tokenizer, asked, parts):
    reply, reading = reply_and_reading(asked, "\n".join(parts), tiny_tokenizer)
    answer = reading.result("".join(reading.answer)).generations[0].message
    whole = reply.message(answer)
    reason = reply.finish_reason(answer)
    reply, reading = reply_and_reading(asked, "\n".join(parts), tiny_tokenizer)
    content, calls = "", []
    for part in reading:
        for delta in reply.deltas(part):
            content += delta.get("content", "")
            calls += [call["function"] for call in delta.get("tool_calls", ())]
    assert content == (whole.content or "")
    assert calls == [call.function.model_dump() for call in whole.tool_calls or ()]
    assert reply.finish_reason(part) == reason
    assert (reason == "tool_calls") == bool(calls)
    if asked != "tools":
        assert len(calls) <= 1


def test_of_two_objects_of_a_schema_the_first_is_the_answer(tiny_tokenizer):
    reply, reading = reply_and_reading("a schema", "\n".join(PARTS[1:3]), tiny_tokenizer)
    said = [delta for part in reading for delta in reply.deltas(part)]
    assert json.loads("".join(delta["content"] for delta in said)) == {"name": "Zoë 雪"}
