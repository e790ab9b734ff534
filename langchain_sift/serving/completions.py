"""Answer requests, whole or as streams of chunks."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import Generation
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.runnables import Runnable

from langchain_sift.language_models.context import fill_context
from langchain_sift.language_models.structured_output.answer_formats import read_response_format
from langchain_sift.serving.admitted import AdmittedRequest
from langchain_sift.serving.calls import (
    Call,
    PiecesOf,
    Prompt,
    all_answers,
    answer_pieces,
    prepare_call,
)
from langchain_sift.serving.choices import chat_pieces, text_pieces
from langchain_sift.serving.messages import ChatReply, bound_tools, to_langchain
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.options import NEW_SESSION
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.responses import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Chunk,
    Completion,
    TextChoice,
    TextLogprobs,
    Usage,
    make_usage,
    usage_of,
)
from langchain_sift.serving.service import Service
from langchain_sift.serving.stream_chunks import ChoiceEnd, ChunkStream, new_id
from langchain_sift.serving.texts import TextInput, text_inputs

ChatModel = Runnable[LanguageModelInput, AIMessage]


class Completions:
    """Answer the requests of a service, and count them in its metrics."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        """Answer for this service."""
        self._service = service
        self._metrics = metrics

    async def chat(self, body: ChatCompletionRequest, admitted: AdmittedRequest) -> ChatCompletion:
        """Continue a conversation."""
        model, messages = await self._chat_model(body, admitted)

        async def answer(prompt: list[BaseMessage], arguments: Mapping[str, Any]) -> AIMessage:
            """Return one answer."""
            return await model.ainvoke(prompt, **arguments)

        prepare = functools.partial(self._prepare_chat, body, admitted)
        ((call, answers),) = await all_answers([messages], prepare, answer, self._at_once(admitted))
        choices = []
        for index, message in enumerate(answers):
            reply = ChatReply(body)
            logprobs = message.response_metadata.get("logprobs")
            choices.append(
                ChatChoice(
                    index=index,
                    message=reply.message(message),
                    logprobs=None if logprobs is None else ChatLogprobs(**logprobs),
                    finish_reason=reply.finish_reason(message),
                )
            )
        usage = _total(usage_of(message.usage_metadata) for message in answers)
        record = call.record(answers[0].response_metadata["ttft"])
        self._metrics.count_answer(record, usage)
        return ChatCompletion(
            id=new_id("chatcmpl"),
            created=int(time.time()),
            model=body.model,
            choices=choices,
            usage=usage,
            ttft=record,
        )

    async def text(self, body: CompletionRequest, admitted: AdmittedRequest) -> Completion:
        """Continue texts."""
        llm = admitted.view.llm

        async def answer(prompt: TextInput, arguments: Mapping[str, Any]) -> Generation:
            """Return one answer."""
            result = await llm.agenerate([prompt.text], **arguments, **prompt.arguments)
            generation: Generation = result.generations[0][0]
            return generation

        prepare = functools.partial(self._prepare_text, body, admitted)
        prompts = await asyncio.to_thread(text_inputs, body, llm)
        self._expect(body, admitted, len(prompts))
        found = await all_answers(prompts, prepare, answer, self._at_once(admitted))
        choices: list[TextChoice] = []
        usages, records = [], []
        for call, answers in found:
            infos = [answer.generation_info or {} for answer in answers]
            for generation, info in zip(answers, infos, strict=True):
                logprobs = info.get("logprobs")
                choices.append(
                    TextChoice(
                        index=len(choices),
                        text=generation.text,
                        logprobs=None if logprobs is None else TextLogprobs(**logprobs),
                        finish_reason=info["finish_reason"],
                    )
                )
            usages.append(_total(usage_of(info["usage"]) for info in infos))
            records.append(call.record(infos[0]["ttft"]))
            self._metrics.count_answer(records[-1], usages[-1])
        return Completion(
            id=new_id("cmpl"),
            created=int(time.time()),
            model=body.model,
            choices=choices,
            usage=_sum(usages),
            ttft=records[0] if len(records) == 1 else records,
        )

    async def chat_stream(
        self, body: ChatCompletionRequest, admitted: AdmittedRequest
    ) -> AsyncGenerator[Chunk]:
        """Return the chunks of a continued conversation; the first follows the fine-tuning."""
        model, messages = await self._chat_model(body, admitted)
        prepare = functools.partial(self._prepare_chat, body, admitted)
        stream = ChunkStream(body, "chat.completion.chunk", "chatcmpl")
        pieces = functools.partial(chat_pieces, body, model, stream)
        return self._stream(
            body, stream, [messages], prepare, pieces, at_once=self._at_once(admitted)
        )

    async def text_stream(
        self, body: CompletionRequest, admitted: AdmittedRequest
    ) -> AsyncGenerator[Chunk]:
        """Return the chunks of continued texts."""
        prepare = functools.partial(self._prepare_text, body, admitted)
        stream = ChunkStream(body, "text_completion", "cmpl")
        pieces = functools.partial(text_pieces, admitted.view.llm, stream)
        prompts = await asyncio.to_thread(text_inputs, body, admitted.view.llm)
        self._expect(body, admitted, len(prompts))
        return self._stream(body, stream, prompts, prepare, pieces, at_once=self._at_once(admitted))

    async def _chat_model(
        self, body: ChatCompletionRequest, admitted: AdmittedRequest
    ) -> tuple[ChatModel, list[BaseMessage]]:
        """Return the model with what the request binds to it, and the messages.

        Messages and schemas are read outside the event loop. Schemas are then known when the
        model is called.
        """
        messages = await asyncio.to_thread(to_langchain, body.messages)
        tools, choice = bound_tools(body)
        model: ChatModel = admitted.view.chat
        if tools:
            bind = functools.partial(admitted.view.chat.bind_tools, tools, tool_choice=choice)
            model = await asyncio.to_thread(bind)
        bound: dict[str, object] = {}
        if body.response_format is not None:
            asked = body.response_format.model_dump(by_alias=True, exclude_none=True)
            await asyncio.to_thread(read_response_format, asked)
            bound["response_format"] = asked
        if body.logprobs:
            bound |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
        if body.continues:
            bound["continue_final_message"] = True
        return model.bind(**bound), messages

    async def _prepare_chat(
        self,
        body: ChatCompletionRequest,
        admitted: AdmittedRequest,
        messages: Sequence[BaseMessage],
    ) -> Call:
        query = admitted.view.chat.query_for(messages)
        chat = admitted.view.chat

        def fitting(documents: Sequence[Document]) -> int:
            """Return how many documents the conversation has room for, tools left out."""
            conversation = ChatPromptValue(messages=messages)
            prompt = functools.partial(fill_context, conversation, is_chat=True)
            return len(chat.fit_context(documents, prompt).used)

        settings = self._settings(body, admitted)
        admitted.expect(body.n or 1)
        return await prepare_call(settings, admitted, query, body.n or 1, fitting)

    async def _prepare_text(
        self, body: CompletionRequest, admitted: AdmittedRequest, prompt: TextInput
    ) -> Call:
        settings = self._settings(body, admitted)

        def fitting(documents: Sequence[Document]) -> int:
            """Return how many documents the text has room for."""
            text = StringPromptValue(text=prompt.text)
            filled = functools.partial(fill_context, text, is_chat=False)
            return len(admitted.view.llm.fit_context(documents, filled).used)

        return await prepare_call(settings, admitted, prompt.text, body.n or 1, fitting)

    def _expect(self, body: CompletionRequest, admitted: AdmittedRequest, prompts: int) -> None:
        """Announce the answers; reject new sessions that would push out one another."""
        if body.ttft is not None and body.ttft.session == NEW_SESSION:
            admitted.check_room_for_sessions(prompts)
        admitted.expect(prompts * (body.n or 1))

    def _settings(
        self, body: ChatCompletionRequest | CompletionRequest, admitted: AdmittedRequest
    ) -> RequestSettings:
        return RequestSettings.of(body, self._service.settings, admitted.view.retriever)

    def _at_once(self, admitted: AdmittedRequest) -> int:
        """Return the number of answers of one request to generate at a time."""
        at_once, limit = self._service.settings.limits.at_once, admitted.view.tenant.max_requests
        return at_once if limit is None else min(at_once, limit)

    async def _stream(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        stream: ChunkStream,
        prompts: Sequence[Prompt],
        prepare: Callable[[Prompt], Awaitable[Call]],
        pieces_of: PiecesOf[Prompt],
        *,
        at_once: int,
    ) -> AsyncGenerator[Chunk]:
        """Yield the chunks of all answers, and at the end the usage and the records."""
        n = body.n or 1
        ends: list[ChoiceEnd] = []
        pieces = answer_pieces(prompts, prepare, pieces_of, n=n, at_once=at_once)
        async with aclosing(pieces):
            async for piece in pieces:
                if not isinstance(piece, ChoiceEnd):
                    yield piece
                    continue
                ends.append(piece)
                if len(ends) < n * len(prompts):
                    yield stream.chunk(piece.index, piece.content, piece.finish_reason)
        by_index = sorted(ends, key=lambda end: end.index)
        groups = [by_index[start : start + n] for start in range(0, len(by_index), n)]
        usages = [_total(end.usage for end in group) for group in groups]
        records = [group[0].record for group in groups]
        for record, usage in zip(records, usages, strict=True):
            self._metrics.count_answer(record, usage)
        whole = records[0] if len(records) == 1 else records
        for chunk in stream.last_chunks(ends[-1], _sum(usages), whole):
            yield chunk


def _total(usages: Iterable[Usage]) -> Usage:
    """Return the usage of several answers to one prompt, which counts once."""
    every = [*usages]
    return _summed(every, every[0].prompt_tokens)


def _sum(usages: Sequence[Usage]) -> Usage:
    """Return the usage of several prompts."""
    return _summed(usages, sum(usage.prompt_tokens for usage in usages))


def _summed(usages: Sequence[Usage], prompt_tokens: int) -> Usage:
    """Return the usage of all answers."""
    return make_usage(
        prompt_tokens,
        sum(usage.completion_tokens for usage in usages),
        sum(usage.reasoning_tokens for usage in usages),
    )
