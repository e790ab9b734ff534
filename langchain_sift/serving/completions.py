"""Answer requests, whole or as streams of chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.language_models.modes import (
    aretrieve_within,
    context_documents,
    retriever_for,
    training_documents,
)
from langchain_sift.serving.messages import ChatReply, bound_tools, to_langchain
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.responses import (
    ChatChoice,
    ChatCompletion,
    Chunk,
    ChunkChoice,
    Completion,
    FinishReason,
    TextChoice,
    TTFTRecord,
    Usage,
)
from langchain_sift.serving.service import AdmittedRequest, Service


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the model, with the documents that were retrieved for it."""

    mode: str
    arguments: Mapping[str, Any]
    """Keyword arguments for LangChain's methods."""

    retrieval_seconds: float | None
    """Seconds of their retrieval. None if there was none before the call."""

    def record(self, metadata: Mapping[str, object]) -> TTFTRecord:
        """Return the record of the call.

        Args:
            metadata: `response_metadata["ttft"]` of the answer.
        """
        record = TTFTRecord.model_validate({**metadata, "mode": self.mode})
        if not fine_tunes(self.mode):
            record.fallback = None  # the request asks for the base model
        if self.retrieval_seconds is not None:
            record.seconds.retrieval = self.retrieval_seconds
        return record


class Completions:
    """Answer the requests of a service, and count them in its metrics."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        """Answer for this service."""
        self._service = service
        self._metrics = metrics

    async def chat(self, body: ChatCompletionRequest, admitted: AdmittedRequest) -> ChatCompletion:
        """Continue a conversation."""
        call, model, messages = await self._prepare_chat(body, admitted)
        answer = await model.ainvoke(messages, **call.arguments)
        reply = ChatReply(body)
        message = reply.message(answer)
        usage = _usage(answer.usage_metadata)
        return ChatCompletion(
            id=_new_id("chatcmpl"),
            created=int(time.time()),
            model=body.model,
            choices=[ChatChoice(message=message, finish_reason=reply.finish_reason(answer))],
            usage=usage,
            ttft=self._record(call, answer.response_metadata["ttft"], usage),
        )

    async def chat_stream(
        self, body: ChatCompletionRequest, admitted: AdmittedRequest
    ) -> AsyncGenerator[Chunk]:
        """Continue a conversation in chunks; the first follows the fine-tuning."""
        call, model, messages = await self._prepare_chat(body, admitted)
        reply = ChatReply(body)
        stream = _ChunkStream(body, "chat.completion.chunk", "chatcmpl")
        pieces: Any = model.astream(messages, **call.arguments)
        is_first = True
        async with aclosing(pieces):
            async for piece in pieces:
                if is_first:
                    is_first = False
                    yield stream.chunk({"delta": {"role": "assistant", "content": ""}})
                for delta in reply.deltas(piece):
                    yield stream.chunk({"delta": delta})
                if piece.chunk_position == "last":
                    usage = _usage(piece.usage_metadata)
                    record = self._record(call, piece.response_metadata["ttft"], usage)
                    reason = reply.finish_reason(piece)
                    for chunk in stream.last_chunks({"delta": {}}, reason, usage, record):
                        yield chunk

    async def _prepare_chat(
        self, body: ChatCompletionRequest, admitted: AdmittedRequest
    ) -> tuple[_Call, Runnable[Any, AIMessage], list[BaseMessage]]:
        """Return the call, the model with its tools, and the messages."""
        chat = admitted.view.chat
        messages = to_langchain(body.messages)
        tools, choice = bound_tools(body)
        model: Runnable[Any, AIMessage] = chat
        if tools:
            model = chat.bind_tools(tools, tool_choice=choice)
        if body.response_format is not None:
            asked = body.response_format.model_dump(by_alias=True, exclude_none=True)
            model = model.bind(response_format=asked)
        call = await self._prepare(body, admitted, chat.retrieval_query(messages))
        return call, model, messages

    async def text(self, body: CompletionRequest, admitted: AdmittedRequest) -> Completion:
        """Continue a text."""
        call, prompt = await self._prepare_text(body, admitted)
        result = await admitted.view.llm.agenerate([prompt], **call.arguments)
        (generation,) = result.generations[0]
        info = generation.generation_info or {}
        usage = _usage(info["usage"])
        return Completion(
            id=_new_id("cmpl"),
            created=int(time.time()),
            model=body.model,
            choices=[TextChoice(text=generation.text, finish_reason=info["finish_reason"])],
            usage=usage,
            ttft=self._record(call, info["ttft"], usage),
        )

    async def text_stream(
        self, body: CompletionRequest, admitted: AdmittedRequest
    ) -> AsyncGenerator[Chunk]:
        """Continue a text in chunks."""
        call, prompt = await self._prepare_text(body, admitted)
        stream = _ChunkStream(body, "text_completion", "cmpl")
        end = _EndOfStream()
        pieces: Any = admitted.view.llm.astream(prompt, {"callbacks": [end]}, **call.arguments)
        async with aclosing(pieces):
            async for piece in pieces:
                if piece:
                    yield stream.chunk({"text": piece})
        usage = _usage(end.info["usage"])
        record = self._record(call, end.info["ttft"], usage)
        for chunk in stream.last_chunks({"text": ""}, end.info["finish_reason"], usage, record):
            yield chunk

    async def _prepare_text(
        self, body: CompletionRequest, admitted: AdmittedRequest
    ) -> tuple[_Call, str]:
        """Return the call, and the prompt."""
        prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        call = await self._prepare(body, admitted, prompt)
        return call, prompt

    async def _prepare(
        self, body: ChatCompletionRequest | CompletionRequest, admitted: AdmittedRequest, query: str
    ) -> _Call:
        """Retrieve the documents of the prompt, and return the call of the model."""
        settings = RequestSettings.of(body, self._service.settings, admitted.view.retriever)
        mode = settings.mode
        if not adds_context(mode):
            # In the mode "ttft" the model retrieves the documents by itself.
            training: list[Document] | None = None if fine_tunes(mode) else []
            arguments = settings.call_arguments(admitted.take_reservation(), training)
            return _Call(mode, arguments, None)
        start = time.perf_counter()
        retriever = retriever_for(mode, settings.retriever)
        retrieval = retriever.ainvoke(query, filter=settings.filter)
        documents = await aretrieve_within(settings.timeout, retrieval)
        seconds = time.perf_counter() - start
        training = training_documents(mode, documents)
        arguments = settings.call_arguments(admitted.take_reservation(), training, elapsed=seconds)
        arguments["context"] = context_documents(mode, documents)
        return _Call(mode, arguments, seconds)

    def _record(self, call: _Call, metadata: Mapping[str, object], usage: Usage) -> TTFTRecord:
        """Return the record of an answer, and count the answer."""
        record = call.record(metadata)
        self._metrics.count_answer(record, usage)
        return record


class _ChunkStream:
    """Make the chunks of one answer."""

    def __init__(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        kind: Literal["chat.completion.chunk", "text_completion"],
        prefix: str,
    ) -> None:
        self._head: Chunk = {
            "id": _new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": body.model,
        }
        options = body.stream_options
        self._include_usage = options is not None and options.include_usage

    def chunk(self, content: ChunkChoice, finish_reason: FinishReason | None = None) -> Chunk:
        """Return a chunk with a piece of the answer.

        Args:
            content: The `delta` or the `text`.
            finish_reason: Reason for the end of the answer. None means that more follows.
        """
        choice: ChunkChoice = {
            "index": 0,
            **content,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        chunk: Chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def last_chunks(
        self, content: ChunkChoice, finish_reason: FinishReason, usage: Usage, record: TTFTRecord
    ) -> list[Chunk]:
        """Return the last chunks; the very last has the record."""
        chunks = [self.chunk(content, finish_reason)]
        if self._include_usage:
            chunks.append({**self._head, "choices": [], "usage": usage})
        chunks[-1]["ttft"] = record
        return chunks


class _EndOfStream(AsyncCallbackHandler):
    """Keep the `generation_info` of a text model, whose stream has only strings."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    async def on_llm_end(self, response: LLMResult, **_: object) -> None:
        self.info = response.generations[0][0].generation_info or {}


def _usage(usage: Any) -> Usage:
    return Usage(
        prompt_tokens=usage["input_tokens"],
        completion_tokens=usage["output_tokens"],
        total_tokens=usage["total_tokens"],
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"
