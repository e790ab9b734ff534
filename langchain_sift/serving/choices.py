"""Stream one answer as pieces of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable

from langchain_sift.language_models.runs import EVENT
from langchain_sift.llms import TestTimeFineTunedLLM
from langchain_sift.serving.calls import Call
from langchain_sift.serving.messages import ChatReply
from langchain_sift.serving.requests import ChatCompletionRequest
from langchain_sift.serving.responses import Chunk, ChunkChoice, usage_of
from langchain_sift.serving.stream_chunks import ChoiceEnd, ChunkStream
from langchain_sift.serving.texts import TextInput

Report = Callable[[Chunk], Awaitable[None]]
"""Send a chunk at once, before the next piece."""


async def chat_pieces(
    body: ChatCompletionRequest,
    model: Runnable[LanguageModelInput, AIMessage],
    stream: ChunkStream,
    messages: Sequence[BaseMessage],
    call: Call,
    *,
    index: int,
    number: int,
    report: Report,
) -> AsyncGenerator[Chunk | ChoiceEnd]:
    """Yield the chunks of one answer to a conversation, and its end.

    Args:
        body: The request.
        model: The model.
        stream: Makes the chunks.
        messages: The conversation.
        call: The call for it.
        index: Index of the answer among all.
        number: Number of the answer to this prompt.
        report: Sends the training steps, if the request asks for them.
    """
    reply = ChatReply(body)
    callbacks = [_Steps(stream, index, report)] if stream.include_steps else []
    arguments = await call.arguments(number)
    pieces: Any = model.astream([*messages], {"callbacks": [*callbacks]}, **arguments)
    tokens: list[object] = []
    unsent: ChunkChoice = {"delta": {"role": "assistant", "content": ""}}
    async with aclosing(pieces):
        async for piece in pieces:
            if "delta" in unsent:  # the first piece
                yield stream.chunk(index, unsent)
                unsent = {}
            if logprobs := piece.response_metadata.get("logprobs"):
                tokens += logprobs["content"]
                unsent = {"logprobs": {"content": tokens, "refusal": None}}
            for delta in reply.deltas(piece):
                yield stream.chunk(index, {**unsent, "delta": delta})
                unsent, tokens = {}, []
            if piece.chunk_position == "last":
                yield ChoiceEnd(
                    index,
                    reply.finish_reason(piece),
                    usage_of(piece.usage_metadata),
                    call.record(piece.response_metadata["ttft"]),
                    {**unsent, "delta": {}},
                )


async def text_pieces(
    llm: TestTimeFineTunedLLM,
    stream: ChunkStream,
    prompt: TextInput,
    call: Call,
    *,
    index: int,
    number: int,
    report: Report,
) -> AsyncGenerator[Chunk | ChoiceEnd]:
    """Yield the chunks of one continuation of a text, and its end; see `chat_pieces`."""
    watch = _TextWatch()
    callbacks = [watch, *([_Steps(stream, index, report)] if stream.include_steps else [])]
    arguments = {**await call.arguments(number), **prompt.arguments}
    pieces: Any = llm.astream(prompt.text, {"callbacks": [*callbacks]}, **arguments)
    async with aclosing(pieces):
        async for piece in pieces:
            if piece:
                yield stream.chunk(index, {"text": piece, **watch.take()})
    yield ChoiceEnd(
        index,
        watch.info["finish_reason"],
        usage_of(watch.info["usage"]),
        call.record(watch.info["ttft"]),
        {"text": "", **watch.take(complete=True)},
    )


class _TextWatch(AsyncCallbackHandler):
    """Keep the `generation_info` of a text model, whose stream has only strings."""

    def __init__(self) -> None:
        self.info: Mapping[str, Any] = {}
        self._seen = self._taken = 0
        self._logprobs: list[Mapping[str, Any]] = []

    async def on_llm_new_token(
        self,
        token: object,
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **_: object,
    ) -> None:
        del token
        info = getattr(chunk, "generation_info", None) or {}
        if "logprobs" in info:
            self._logprobs.append(info["logprobs"])

    async def on_llm_end(self, response: LLMResult, **_: object) -> None:
        self.info = response.generations[0][0].generation_info or {}

    def take(self, *, complete: bool = False) -> ChunkChoice:
        """Return the log-probabilities since the last time, or all that remain at the end."""
        if complete and "logprobs" in self.info:
            taken = self._taken
            return {"logprobs": {name: of[taken:] for name, of in self.info["logprobs"].items()}}
        parts, self._logprobs = self._logprobs, []
        if not parts:
            return {}
        self._taken += sum(len(part["tokens"]) for part in parts)
        joined: dict[str, list[object]] = {
            name: [entry for part in parts for entry in part[name]] for name in parts[0]
        }
        return {"logprobs": joined}


class _Steps(AsyncCallbackHandler):
    """Send each gradient step as a chunk of its own."""

    def __init__(self, stream: ChunkStream, index: int, report: Report) -> None:
        self._stream, self._index, self._report = stream, index, report

    async def on_custom_event(self, name: str, data: Any, **_: object) -> None:
        if name == EVENT:
            await self._report(self._stream.step({"index": self._index, **data}))
