"""Convert OpenAI's messages to LangChain's, and answers back to OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolCallChunk,
    convert_to_messages,
    convert_to_openai_messages,
)

from langchain_sift.errors import ArgumentError
from langchain_sift.serving.request_parts import AllowedToolChoice, Message, NamedTool, ToolCall
from langchain_sift.serving.requests import ChatCompletionRequest
from langchain_sift.serving.responses import Delta, FinishReason, ResponseMessage, ToolCallDelta

ToolChoice = str | dict[str, object] | None


def to_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """Convert a conversation to LangChain's messages.

    Raises:
        ArgumentError: If the arguments of a tool call are not a JSON object.
    """
    try:
        return convert_to_messages(
            [{"content": "", **message.model_dump(exclude_none=True)} for message in messages]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ArgumentError(
            "messages: the arguments of a tool call must be a JSON object"
        ) from error


def bound_tools(body: ChatCompletionRequest) -> tuple[list[dict[str, object]], ToolChoice]:
    """Return the tools to bind to the model, and the choice among them.

    Raises:
        ArgumentError: If a request has a choice without tools, or allows one that it does not have.
    """
    tools: list[dict[str, object]] = [
        tool.model_dump(exclude_none=True) for tool in body.tools or ()
    ]
    choice = body.tool_choice
    if not tools and choice not in (None, "none", "auto"):
        raise ArgumentError("tool_choice: there are no tools to choose from")
    if isinstance(choice, AllowedToolChoice):
        allowed = choice.allowed_tools
        names = {tool.function.name for tool in allowed.tools}
        if unknown := names - {tool.function.name for tool in body.tools or ()}:
            raise ArgumentError(f"tool_choice: {min(unknown)!r} is none of the tools")
        chosen = [tool for tool in body.tools or () if tool.function.name in names]
        return [tool.model_dump(exclude_none=True) for tool in chosen], allowed.mode
    if isinstance(choice, NamedTool):
        return tools, choice.model_dump()
    return tools, choice


class ChatReply:
    """Convert an answer of the model to OpenAI's format, whole or in pieces."""

    def __init__(self, body: ChatCompletionRequest) -> None:
        """Follow the request: one or several tool calls."""
        self._max_calls = 1 if body.parallel_tool_calls is False else None
        self._calls = 0

    def message(self, answer: AIMessage) -> ResponseMessage:
        """Convert the whole answer."""
        openai_calls = convert_to_openai_messages(answer).get("tool_calls", [])
        calls = [ToolCall.model_validate(call) for call in openai_calls[: self._max_calls]]
        self._calls = len(calls)
        invalid = [call["args"] or "" for call in answer.invalid_tool_calls]
        text = "".join([answer.text, *invalid])
        return ResponseMessage(
            content=text or (None if calls else ""),
            reasoning_content=answer.additional_kwargs.get("reasoning_content"),
            tool_calls=calls or None,
        )

    def deltas(self, chunk: AIMessageChunk) -> list[Delta]:
        """Convert a piece of the answer."""
        deltas: list[Delta] = []
        if reasoning := chunk.additional_kwargs.get("reasoning_content"):
            deltas.append({"reasoning_content": reasoning})
        if chunk.text:
            deltas.append({"content": chunk.text})
        for call in chunk.tool_call_chunks:
            arguments = call["args"] or ""
            if not _is_json_object(arguments):
                deltas.append({"content": arguments})
            elif self._max_calls is None or self._calls < self._max_calls:
                deltas.append({"tool_calls": [self._call_delta(call)]})
                self._calls += 1
        return deltas

    def _call_delta(self, call: ToolCallChunk) -> ToolCallDelta:
        return {
            "index": self._calls,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["args"]},
        }

    def finish_reason(self, answer: AIMessage) -> FinishReason:
        """Return the reason for the end of the answer."""
        if self._calls:
            return "tool_calls"
        return "length" if answer.response_metadata["finish_reason"] == "length" else "stop"


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
