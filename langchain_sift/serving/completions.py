"""From a request to its answer, whole or as a stream of chunks."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from langchain_sift.chains import with_context
from langchain_sift.errors import RequestTimeout
from langchain_sift.serving import requests as protocol
from langchain_sift.serving.messages import Reply, shown, to_langchain, tools_of
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.service import Admitted, Service

Chunk = dict[str, Any]

_OF_THE_RETRIEVER = ("fetch_k", "noise_variance", "stopping_alpha")
_OF_THE_RECIPE = ("learning_rate", "steps_per_document", "max_documents", "min_gain")
_CEILINGS = ("max_train_tokens", "max_train_seconds")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one request asks of the model, its documents retrieved where the prompt shows them."""

    mode: str
    call: Mapping[str, Any]
    """Settings of the call."""

    context: list[Document]
    """The documents that the prompt shows."""

    seconds: float | None
    """Of their retrieval; None where the model asks the retriever itself, or nobody does."""

    def record(self, told: Mapping[str, Any]) -> protocol.TTFTRecord:
        """Return what is told of the answer.

        Args:
            told: `response_metadata["ttft"]`.
        """
        record = {**told, "mode": self.mode}
        if self.mode in {"base", "rag"}:
            record["fallback"] = None  # nothing was to be learned
        if self.seconds is not None:
            record["context"] = list(dict.fromkeys(one.id for one in self.context))
            record["seconds"] = {**told["seconds"], "retrieval": self.seconds}
        return protocol.TTFTRecord.model_validate(record)


class Answering:
    """Answers the requests of a service, and counts what that takes."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        """Answer for this service."""
        self._service = service
        self._metrics = metrics

    # --- chat -------------------------------------------------------------------------------

    async def chat(
        self, body: protocol.ChatCompletionRequest, admitted: Admitted
    ) -> protocol.ChatCompletion:
        """Answer a conversation at once."""
        plan, model, messages = await self._chat_plan(body, admitted)
        answer = await model.ainvoke(messages, **plan.call)
        reply = Reply(body)
        message = reply.message(answer)
        choice = protocol.ChatChoice(message=message, finish_reason=reply.finish_reason(answer))
        return protocol.ChatCompletion(
            id=_new_id("chatcmpl"),
            created=int(time.time()),
            model=body.model,
            choices=[choice],
            usage=_usage(answer.usage_metadata),
            ttft=self._counted(plan, answer.response_metadata["ttft"], answer.usage_metadata),
        )

    async def chat_stream(
        self, body: protocol.ChatCompletionRequest, admitted: Admitted
    ) -> AsyncGenerator[Chunk]:
        """Answer a conversation piece by piece; the first comes when all is learned."""
        plan, model, messages = await self._chat_plan(body, admitted)
        reply = Reply(body)
        told = _Stream(body, "chat.completion.chunk", "chatcmpl")
        started = False
        async with aclosing(_parts(model, messages, plan)) as parts:
            async for part in parts:
                if not started:
                    started = True
                    yield told.chunk(delta={"role": "assistant", "content": ""})
                for delta in reply.deltas(part):
                    yield told.chunk(delta=delta)
                if part.chunk_position == "last":
                    ttft = part.response_metadata["ttft"]
                    record = self._counted(plan, ttft, part.usage_metadata)
                    for chunk in told.end(
                        record, _usage(part.usage_metadata), reply.finish_reason(part), delta={}
                    ):
                        yield chunk

    async def _chat_plan(
        self, body: protocol.ChatCompletionRequest, admitted: Admitted
    ) -> tuple[_Plan, Runnable[Any, AIMessage], list[BaseMessage]]:
        chat = admitted.view.chat
        messages = to_langchain(body.messages)
        tools, choice = tools_of(body)
        model = chat.bind_tools(tools, tool_choice=choice) if tools else chat
        most = body.max_completion_tokens or body.max_tokens
        plan = await self._plan(body, admitted, chat.retrieval_query(messages), most)
        return plan, model, shown(messages, plan.context)

    # --- text -------------------------------------------------------------------------------

    async def completion(
        self, body: protocol.CompletionRequest, admitted: Admitted
    ) -> protocol.Completion:
        """Go on with a text at once."""
        plan, prompt = await self._text_plan(body, admitted)
        result = await admitted.view.llm.agenerate([prompt], **plan.call)
        (generation,) = result.generations[0]
        info: dict[str, Any] = generation.generation_info or {}
        return protocol.Completion(
            id=_new_id("cmpl"),
            created=int(time.time()),
            model=body.model,
            choices=[
                protocol.TextChoice(text=generation.text, finish_reason=info["finish_reason"])
            ],
            usage=_usage(info["usage"]),
            ttft=self._counted(plan, info["ttft"], info["usage"]),
        )

    async def completion_stream(
        self, body: protocol.CompletionRequest, admitted: Admitted
    ) -> AsyncGenerator[Chunk]:
        """Go on with a text piece by piece."""
        plan, prompt = await self._text_plan(body, admitted)
        told = _Stream(body, "text_completion", "cmpl")
        ending = _Ending()
        pieces: Any = admitted.view.llm.astream(prompt, {"callbacks": [ending]}, **plan.call)
        async with aclosing(pieces):
            async for piece in pieces:
                if piece:
                    yield told.chunk(text=piece)
        record = self._counted(plan, ending.info["ttft"], ending.info["usage"])
        reason = ending.info["finish_reason"]
        for chunk in told.end(record, _usage(ending.info["usage"]), reason, text=""):
            yield chunk

    async def _text_plan(
        self, body: protocol.CompletionRequest, admitted: Admitted
    ) -> tuple[_Plan, str]:
        prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        plan = await self._plan(body, admitted, prompt, body.max_tokens)
        return plan, with_context(prompt, plan.context) if plan.context else prompt

    # --- both -------------------------------------------------------------------------------

    async def _plan(
        self,
        body: protocol.ChatCompletionRequest | protocol.CompletionRequest,
        admitted: Admitted,
        query: str,
        max_tokens: int | None,
    ) -> _Plan:
        settings = self._service.settings
        options = body.ttft or protocol.TTFTOptions()
        mode = options.mode or settings.mode
        asked = options.model_dump(include={"k", "filter"}, exclude_none=True)
        retriever = admitted.view.retriever.model_copy(
            update=options.model_dump(include=set(_OF_THE_RETRIEVER), exclude_none=True)
        )
        timeout = min(options.timeout or settings.timeout, settings.timeout)
        call = self._settings_of(body, options, max_tokens)
        if mode == "ttft":
            call |= {"retriever": retriever, "timeout": timeout, **asked}
            return _Plan(mode, {**call, "reservation": admitted.hand_over()}, [], None)
        context: list[Document] = []
        seconds = None
        if mode != "base":
            began = time.perf_counter()
            asked["replace"] = mode == "both"
            context = await _within(timeout, retriever.with_gains().ainvoke(query, **asked))
            seconds = time.perf_counter() - began
        learned = context if mode == "both" else []
        call |= {"documents": learned, "timeout": max(timeout - (seconds or 0.0), 1e-3)}
        return _Plan(mode, {**call, "reservation": admitted.hand_over()}, context, seconds)

    def _settings_of(
        self,
        body: protocol.ChatCompletionRequest | protocol.CompletionRequest,
        options: protocol.TTFTOptions,
        max_tokens: int | None,
    ) -> dict[str, Any]:
        """Return how the model is to learn and to answer."""
        call: dict[str, Any] = options.model_dump(include=set(_OF_THE_RECIPE), exclude_none=True)
        for name in _CEILINGS:
            own, given = getattr(self._service.settings.finetune, name), getattr(options, name)
            if given is not None:
                call[name] = given if own is None else min(own, given)
        answer = {"max_tokens": max_tokens, "temperature": body.temperature}
        call |= {name: value for name, value in answer.items() if value is not None}
        if body.seed is not None:
            call["seed"] = body.seed % (1 << 63)
        if body.stop:
            call["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
        return call

    def _counted(self, plan: _Plan, told: Mapping[str, Any], usage: Any) -> protocol.TTFTRecord:
        record = plan.record(told)
        self._metrics.answer(record.model_dump(), usage)
        return record


class _Stream:
    """The chunks of one answer."""

    def __init__(
        self,
        body: protocol.ChatCompletionRequest | protocol.CompletionRequest,
        kind: str,
        prefix: str,
    ) -> None:
        self._head = {
            "id": _new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": body.model,
        }
        self._usage = body.stream_options is not None and body.stream_options.include_usage

    def chunk(self, finish_reason: str | None = None, **said: Any) -> Chunk:
        """Return a piece of the answer."""
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._usage else chunk

    def end(
        self, record: protocol.TTFTRecord, usage: protocol.Usage, reason: str, **said: Any
    ) -> list[Chunk]:
        """Return the end, and where it was asked for the usage; the last has the record."""
        chunks = [self.chunk(reason, **said)]
        if self._usage:
            chunks.append({**self._head, "choices": [], "usage": usage.model_dump()})
        # By way of JSON: a loss may be NaN, which pydantic writes as null.
        chunks[-1]["ttft"] = json.loads(record.model_dump_json())
        return chunks


class _Ending(AsyncCallbackHandler):
    """Keeps what a text model tells at its end: its stream is of strings alone."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.info = response.generations[0][0].generation_info or {}


async def _parts(
    model: Runnable[Any, AIMessage], messages: list[BaseMessage], plan: _Plan
) -> AsyncGenerator[AIMessageChunk]:
    parts: Any = model.astream(messages, **plan.call)
    async with aclosing(parts):
        async for part in parts:
            yield part


async def _within(timeout: float, retrieving: Any) -> list[Document]:
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            found: list[Document] = await retrieving
            return found
    except TimeoutError as error:
        if not deadline.expired():  # the store's own
            raise
        raise RequestTimeout(f"the prompt's documents were not there within {timeout} s") from error


def _usage(told: Any) -> protocol.Usage:
    return protocol.Usage(
        prompt_tokens=told["input_tokens"],
        completion_tokens=told["output_tokens"],
        total_tokens=told["total_tokens"],
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"
