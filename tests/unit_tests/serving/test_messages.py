"""Convert answers to OpenAI's format, whole and in chunks."""

from __future__ import annotations

import itertools

import pytest

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_reply import ChatAnswer
from langchain_sift.language_models.structured_output.answer_rules import AnswerRules
from langchain_sift.language_models.token_logprobs import AnswerScores
from langchain_sift.serving.messages import ChatReply, bound_tools
from langchain_sift.serving.requests import ChatCompletionRequest
from langchain_sift.serving.response_requests import ResponseRequest

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "Joke", "parameters": SCHEMA}}
REQUESTS = {
    "tools": {"tools": [TOOL]},
    "one call at a time": {"tools": [TOOL], "parallel_tool_calls": False},
}
TEXTS = [
    "I look. ",
    '<tool_call>{"name": "Joke", "arguments": {"name": "Zoë 雪"}}</tool_call>',
    '<tool_call>{"name": "Joke", "arguments": {"name": "two"}}</tool_call>',
    "<tool_call>[1]</tool_call>",
]


class Pieces(list):
    """A fake answer with a known text."""

    usage = metadata = None
    finish_reason = "stop"
    call_opening = ""
    rules = AnswerRules([TOOL])
    scores = AnswerScores()


def reply_and_answer(request_name, text, tokenizer):
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "m", "messages": messages, **REQUESTS[request_name]}
    pieces = Pieces(text[start : start + 3] for start in range(0, len(text), 3))
    pieces.tokenizer = tokenizer
    chat_answer = ChatAnswer(pieces, model_name="m")
    return ChatReply(ChatCompletionRequest.model_validate(body)), chat_answer


@pytest.mark.slow
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize(
    "texts", [chosen for n in (1, 2, 3, 4) for chosen in itertools.combinations(TEXTS, n)]
)
def test_a_stream_adds_up_to_the_whole_answer(tiny_tokenizer, request_name, texts):
    reply, chat_answer = reply_and_answer(request_name, "\n".join(texts), tiny_tokenizer)
    answer = chat_answer.result("".join(chat_answer.answer)).generations[0].message
    message = reply.message(answer)
    reason = reply.finish_reason(answer)
    reply, chat_answer = reply_and_answer(request_name, "\n".join(texts), tiny_tokenizer)
    content, calls = "", []
    for chunk in chat_answer:
        for delta in reply.deltas(chunk):
            content += delta.get("content", "")
            calls += [call["function"] for call in delta.get("tool_calls", ())]
    assert content == (message.content or "")
    assert calls == [call.function.model_dump() for call in message.tool_calls or ()]
    assert reply.finish_reason(chunk) == reason
    assert (reason == "tool_calls") == bool(calls)
    if request_name != "tools":
        assert len(calls) <= 1


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_of_the_tools_may_be_allowed(mode):
    other = {"type": "function", "function": {"name": "Other"}}
    named = {"type": "function", "function": {"name": "Joke"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "m", "messages": messages, "tools": [other, TOOL], "tool_choice": allowed}
    assert bound_tools(ChatCompletionRequest.model_validate(body)) == ([TOOL], mode)
    tools = [{"type": "function", **tool["function"]} for tool in (other, TOOL)]
    choice = {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": "Joke"}],
    }
    asked = {"model": "m", "input": "Hello", "tools": tools, "tool_choice": choice}
    assert bound_tools(ResponseRequest.model_validate(asked).chat()) == ([TOOL], mode)
    body["tools"] = [other]
    with pytest.raises(ArgumentError, match="'Joke' is none of the tools"):
        bound_tools(ChatCompletionRequest.model_validate(body))
