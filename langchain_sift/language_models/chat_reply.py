"""Convert the text of an answer to an `AIMessage`, whole or in chunks."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import TypedDict

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.structured_output.form_reader import FormReader
from langchain_sift.language_models.structured_output.tool_calls import ParsedAnswer, ToolCallReader
from langchain_sift.language_models.token_logprobs import content_logprobs
from langchain_sift.ttft.reasoning import ReasoningText

# The key of LangChain's other models; `AIMessage.content_blocks` reads it.
_REASONING = "reasoning_content"


class _Metadata(TypedDict):
    usage_metadata: UsageMetadata
    response_metadata: dict[str, object]


class ChatAnswer:
    """One answer as it is generated: content at once, tool calls at the end."""

    def __init__(self, answer: Answer, *, model_name: str) -> None:
        """Prepare to read an answer.

        Args:
            answer: The answer, not started.
            model_name: Name of the model, for the metadata.
        """
        self.answer = answer
        self._model_name = model_name
        self._text = ""
        self._content = ""

    def result(self, pieces: Iterable[str]) -> ChatResult:
        """Convert the pieces of a complete answer."""
        pieces = list(pieces)
        reasoning = "".join(piece for piece in pieces if isinstance(piece, ReasoningText))
        text = "".join(piece for piece in pieces if not isinstance(piece, ReasoningText))
        content, calls, invalid = self._parse(text)
        metadata = self._metadata()
        metadata["response_metadata"] |= self._logprobs()
        message = AIMessage(
            content=content,
            additional_kwargs={_REASONING: reasoning} if reasoning else {},
            tool_calls=calls,
            invalid_tool_calls=invalid,
            **metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def __iter__(self) -> Iterator[AIMessageChunk]:
        """Generate the answer, and yield it in chunks; the last carries the metadata."""
        for piece in self.answer:
            yield from map(self._with_logprobs, self._content_chunks(piece))
        yield from map(self._with_logprobs, self._last_chunks())

    async def __aiter__(self) -> AsyncGenerator[AIMessageChunk]:
        """Do the same without blocking the event loop."""
        async with aclosing(aiter(self.answer)) as pieces:
            async for piece in pieces:
                for chunk in self._content_chunks(piece):
                    yield self._with_logprobs(chunk)
        for chunk in self._last_chunks():
            yield self._with_logprobs(chunk)

    def _parse(self, text: str) -> ParsedAnswer:
        if not self.answer.rules.tools:
            return ParsedAnswer(text, [], [])
        return self._reader.read(self.answer.call_opening + text)

    @functools.cached_property
    def _reader(self) -> ToolCallReader | FormReader:
        # The tokenizer may be loaded with the model, when the answer starts.
        return self.answer.rules.reader(self.answer.tokenizer)

    def _content_chunks(self, piece: str) -> Iterator[AIMessageChunk]:
        """Yield the reasoning, or the content so far that cannot be the beginning of a call."""
        if isinstance(piece, ReasoningText):
            yield AIMessageChunk(content="", additional_kwargs={_REASONING: str(piece)})
            return
        self._text += piece
        content = self._text
        if self.answer.rules.tools:
            content = self._reader.certain_content(self.answer.call_opening + self._text)
        yield from self._new_content(content)

    def _last_chunks(self) -> Iterator[AIMessageChunk]:
        """Yield the rest of the content, the calls, and the metadata."""
        content, calls, invalid = self._parse(self._text)
        yield from self._new_content(content)
        if calls or invalid:
            # In content blocks of version 1, text and calls are numbered together.
            every: list[ToolCall | InvalidToolCall] = [*calls, *invalid]
            chunks = [_call_chunk(call, index) for index, call in enumerate(every, start=1)]
            yield AIMessageChunk(content="", tool_call_chunks=chunks)
        yield AIMessageChunk(content="", chunk_position="last", **self._metadata())

    def _new_content(self, content: str) -> Iterator[AIMessageChunk]:
        if new := content[len(self._content) :]:
            self._content = content
            yield AIMessageChunk(content=new)

    def _with_logprobs(self, chunk: AIMessageChunk) -> AIMessageChunk:
        """Add the log-probabilities of the tokens since the last chunk."""
        chunk.response_metadata |= self._logprobs()
        return chunk

    def _logprobs(self) -> dict[str, object]:
        """Return the log-probabilities of the tokens that were not taken yet, as `ChatOpenAI`."""
        scores = self.answer.scores.take()
        if not scores:
            return {}
        return {"logprobs": {"content": content_logprobs(self.answer.tokenizer, scores)}}

    def _metadata(self) -> _Metadata:
        return {
            "usage_metadata": self.answer.usage,
            "response_metadata": {
                "model_name": self._model_name,
                "model_provider": "langchain-sift",
                "finish_reason": self.answer.finish_reason,
                "ttft": self.answer.metadata,
            },
        }


def _call_chunk(call: ToolCall | InvalidToolCall, index: int) -> ToolCallChunk:
    args = call["args"]
    text = args if isinstance(args, str | None) else json.dumps(args, ensure_ascii=False)
    return tool_call_chunk(name=call["name"], args=text, id=call["id"], index=index)
