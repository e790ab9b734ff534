"""OpenAI's messages and LangChain's, in both directions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolCallChunk,
    convert_to_messages,
    convert_to_openai_messages,
)

from langchain_sift.chains import with_context
from langchain_sift.errors import ArgumentError
from langchain_sift.serving import requests as protocol


def to_langchain(messages: Sequence[protocol.Message]) -> list[BaseMessage]:
    """Return a conversation as LangChain knows it.

    Raises:
        ArgumentError: If the arguments of a call in it are no JSON object.
    """
    try:
        return convert_to_messages(
            [{"content": "", **one.model_dump(exclude_none=True)} for one in messages]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ArgumentError("messages: the arguments of a tool call are no JSON object") from error


def shown(messages: Sequence[BaseMessage], documents: Sequence[Document]) -> list[BaseMessage]:
    """Return the conversation with documents before what the last human message says."""
    if not documents:
        return list(messages)
    places = [n for n, message in enumerate(messages) if isinstance(message, HumanMessage)]
    place = places[-1] if places else len(messages) - 1
    last = messages[place]
    asked = last.model_copy(update={"content": with_context(last.text, documents)})
    return [*messages[:place], asked, *messages[place + 1 :]]


def tools_of(body: protocol.ChatCompletionRequest) -> tuple[list[dict[str, Any]], Any]:
    """Return the tools that the model is told of, and which it must call.

    A schema for the answer is a tool that it must call.

    Raises:
        ArgumentError: If both are asked for, or a choice without tools.
    """
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    choice = body.tool_choice
    if isinstance(body.response_format, protocol.JSONSchemaFormat):
        if tools:
            raise ArgumentError(
                "response_format: a schema and tools exclude each other on this server"
            )
        wanted = body.response_format.json_schema
        function = {"name": wanted.name, "parameters": wanted.schema_}
        if wanted.description:
            function["description"] = wanted.description
        return [{"type": "function", "function": function}], "required"
    if not tools and choice not in (None, "none", "auto"):
        raise ArgumentError("tool_choice: there are no tools to choose from")
    if isinstance(choice, protocol.NamedTool):
        return tools, choice.model_dump()
    return tools, choice


class Reply:
    """An answer on its way to OpenAI's shape, whole or piece by piece."""

    def __init__(self, body: protocol.ChatCompletionRequest) -> None:
        """Say it as the request wants it: calls one at a time, or a schema's object as text."""
        self._as_text = isinstance(body.response_format, protocol.JSONSchemaFormat)
        self._most_calls = 1 if self._as_text or body.parallel_tool_calls is False else None
        self._calls = 0

    def message(self, answer: AIMessage) -> protocol.AnsweredMessage:
        """Return the whole answer."""
        told = convert_to_openai_messages(answer).get("tool_calls", [])[: self._most_calls]
        calls = [protocol.ToolCall.model_validate(call) for call in told]
        self._calls = len(calls)
        objects = [call.function.arguments for call in calls] if self._as_text else []
        broken = [call["args"] or "" for call in answer.invalid_tool_calls]
        return protocol.AnsweredMessage(
            content="".join([answer.text, *objects, *broken]) or None,
            tool_calls=None if self._as_text else calls or None,
        )

    def deltas(self, part: AIMessageChunk) -> list[dict[str, Any]]:
        """Return what a piece of the answer adds to it."""
        found: list[dict[str, Any]] = [{"content": part.text}] if part.text else []
        for call in part.tool_call_chunks:
            arguments = call["args"] or ""
            if not _is_object(arguments):
                found.append({"content": arguments})
            elif self._most_calls is None or self._calls < self._most_calls:
                said = {"content": arguments} if self._as_text else self._call(call)
                found.append(said)
                self._calls += 1
        return found

    def _call(self, call: ToolCallChunk) -> dict[str, Any]:
        function = {"name": call["name"], "arguments": call["args"]}
        one = {"index": self._calls, "id": call["id"], "type": "function", "function": function}
        return {"tool_calls": [one]}

    def finish_reason(self, answer: AIMessage) -> protocol.FinishReason:
        """Return why there is no more of it."""
        if self._calls and not self._as_text:
            return "tool_calls"
        return "length" if answer.response_metadata["finish_reason"] == "length" else "stop"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
