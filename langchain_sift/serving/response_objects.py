"""Give answers in the form of OpenAI's newer API, whole or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from langchain_sift.serving.error_responses import Failure
from langchain_sift.serving.requests import FILL_CONTEXT
from langchain_sift.serving.response_requests import ResponseRequest
from langchain_sift.serving.responses import ChatCompletion, Chunk, TTFTRecord, Usage
from langchain_sift.serving.stream_chunks import new_id
from langchain_sift.serving.streams import ServerEvent

Item = dict[str, object]


class ResponseObject:
    """Build one response, from a whole answer or from the chunks of a stream."""

    def __init__(self, body: ResponseRequest) -> None:
        """Start without output.

        Args:
            body: The request.
        """
        self._body = body
        self._id = new_id("resp")
        self._created = int(time.time())
        self._output: list[Item] = []
        self._number = -1

    # --- whole ----------------------------------------------------------------------------

    def whole(self, completion: ChatCompletion) -> Item:
        """Return the response with an answer."""
        (choice,) = completion.choices
        message = choice.message
        if message.reasoning_content:
            self._output.append(_reasoning(message.reasoning_content))
        if message.content or not (message.tool_calls or message.reasoning_content):
            logprobs = [] if choice.logprobs is None else choice.logprobs.model_dump()["content"]
            self._output.append(_message(message.content or "", logprobs))
        for call in message.tool_calls or ():
            self._output.append(_call(call.id, call.function.name, call.function.arguments))
        if choice.finish_reason == "length":
            self._output[-1]["status"] = "incomplete"
        return self._state(choice.finish_reason, completion.usage, completion.ttft)

    def _state(
        self, reason: str | None, usage: Usage | None = None, record: TTFTRecord | None = None
    ) -> Item:
        """Return the response so far; `reason` None means that it is in progress."""
        body, most = self._body, self._body.max_output_tokens
        is_cut = reason == "length"
        status = "in_progress" if reason is None else "incomplete" if is_cut else "completed"
        state: Item = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": body.instructions,
            "max_output_tokens": None if most == FILL_CONTEXT else most,
            "model": body.model,
            "output": [*self._output],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _dumped(body.text and body.text.format) or {"type": "text"}},
            "tool_choice": _dumped(body.tool_choice) or "auto",
            "tools": [_dumped(tool) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "metadata": body.metadata or {},
            "usage": None if usage is None else _usage(usage),
        }
        return state if record is None else {**state, "ttft": record}

    # --- stream ---------------------------------------------------------------------------

    async def events(self, chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[ServerEvent]:
        """Convert the chunks of a chat, whose usage is included."""
        reason: str | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                for event in self._begin():
                    yield event
                for choice in chunk["choices"]:
                    for event in self._from_delta(choice["delta"], choice["logprobs"]):
                        yield event
                    reason = choice["finish_reason"] or reason
                if "ttft" in chunk:
                    for event in self._end(reason, chunk):
                        yield event

    def _end(self, reason: str | None, last: Chunk) -> Iterator[ServerEvent]:
        """End the open item and the response, which has a message for an empty answer."""
        if not self._output:
            yield from self._open("message")
        yield from self._close("incomplete" if reason == "length" else "completed")
        state: Any = self._state(reason, last["usage"], last["ttft"])  # type: ignore[arg-type]
        yield self._event(f"response.{state['status']}", response=state)

    def _begin(self) -> Iterator[ServerEvent]:
        """Begin the response, unless it has begun."""
        if self._number < 0:
            yield self._event("response.created", response=self._state(None))
            yield self._event("response.in_progress", response=self._state(None))

    def _from_delta(
        self, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None
    ) -> Iterator[ServerEvent]:
        if reasoning := delta.get("reasoning_content"):
            yield from self._open("reasoning")
            self._part()["text"] += reasoning
            yield self._content_event("response.reasoning_text.delta", delta=reasoning)
        if text := delta.get("content"):
            yield from self._open("message")
            tokens = list((logprobs or {}).get("content", ()))
            self._part()["text"] += text
            self._part()["logprobs"] += tokens
            yield self._content_event("response.output_text.delta", delta=text, logprobs=tokens)
        for call in delta.get("tool_calls", ()):
            yield from self._close()
            function = call["function"]
            whole = _call(call["id"], function["name"], function["arguments"])
            begun = {**whole, "arguments": "", "status": "in_progress"}
            self._output.append(whole)
            place = {"output_index": len(self._output) - 1}
            named = {**place, "item_id": whole["id"]}
            arguments = function["arguments"]
            kind = "response.function_call_arguments"
            yield self._event("response.output_item.added", item=begun, **place)
            yield self._event(f"{kind}.delta", delta=arguments, **named)
            yield self._event(f"{kind}.done", arguments=arguments, name=whole["name"], **named)
            yield self._event("response.output_item.done", item=whole, **place)

    def _part(self) -> Any:
        """Return the content of the open item."""
        content: Any = self._output[-1]["content"]
        return content[0]

    def _is_open(self) -> bool:
        return bool(self._output) and self._output[-1].get("status") == "in_progress"

    def _open(self, kind: str) -> Iterator[ServerEvent]:
        """Begin an item, unless one of this kind is open."""
        if self._is_open() and self._output[-1]["type"] == kind:
            return
        yield from self._close()
        item = _reasoning("") if kind == "reasoning" else _message("", [])
        item["status"] = "in_progress"
        self._output.append(item)
        begun = {**item, "content": []}
        place = len(self._output) - 1
        yield self._event("response.output_item.added", output_index=place, item=begun)
        yield self._content_event("response.content_part.added", part={**self._part()})

    def _close(self, status: str = "completed") -> Iterator[ServerEvent]:
        """End the open item, if there is one."""
        if not self._is_open():
            return
        item, part = self._output[-1], self._part()
        item["status"] = status
        if item["type"] == "message":
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._content_event("response.output_text.done", **done)
        else:
            yield self._content_event("response.reasoning_text.done", text=part["text"])
        yield self._content_event("response.content_part.done", part={**part})
        place = len(self._output) - 1
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _content_event(self, kind: str, **fields: object) -> ServerEvent:
        """Return an event of the content of the last item."""
        place = {"output_index": len(self._output) - 1, "content_index": 0}
        return self._event(kind, item_id=self._output[-1]["id"], **place, **fields)

    def _event(self, kind: str, **fields: object) -> ServerEvent:
        self._number += 1
        data = {"type": kind, "sequence_number": self._number, **fields}
        return ServerEvent(to_json(data, inf_nan_mode="null"), kind)

    def failed(self, failure: Failure) -> list[ServerEvent]:
        """Return the last events of a response that failed, which may not have begun."""
        codes = {
            HTTPStatus.BAD_REQUEST: "invalid_prompt",
            HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
        }
        error = {
            "code": codes.get(HTTPStatus(failure.status), "server_error"),  # OpenAI's names
            "message": failure.message,
            "type": failure.code,
            "param": failure.param,
        }
        begun = [*self._begin()]
        state = {**self._state(None), "status": "failed", "error": error}
        return [*begun, self._event("response.failed", response=state)]


def _message(text: str, logprobs: list[Any]) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
    return {
        "id": new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _reasoning(text: str) -> Item:
    return {
        "id": new_id("rs"),
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def _call(call_id: str, name: str, arguments: str) -> Item:
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _usage(usage: Usage) -> Item:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _dumped(part: Any) -> object:
    return (
        part.model_dump(by_alias=True, exclude_none=True) if hasattr(part, "model_dump") else part
    )
