"""Make the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Literal

from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.responses import Chunk, ChunkChoice, FinishReason, TTFTRecord, Usage


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """The end of one answer."""

    index: int
    finish_reason: FinishReason
    usage: Usage
    record: TTFTRecord
    content: ChunkChoice
    """What its last chunk holds."""


class ChunkStream:
    """Make the chunks of all answers to one request."""

    def __init__(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        kind: Literal["chat.completion.chunk", "text_completion"],
        prefix: str,
    ) -> None:
        """Start a stream.

        Args:
            body: The request.
            kind: Kind of the chunks.
            prefix: Beginning of the stream's identifier.
        """
        self._head: Chunk = {
            "id": new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": body.model,
        }
        options = body.stream_options
        self._include_usage = options is not None and bool(options.include_usage)
        self.include_steps = options is not None and bool(options.include_ttft_steps)
        """True if the request asks for the training steps."""

    def chunk(
        self, index: int, content: ChunkChoice, finish_reason: FinishReason | None = None
    ) -> Chunk:
        """Return a chunk with a piece of an answer.

        Args:
            index: Index of the answer.
            content: The `delta` or the `text`, and `logprobs` if there are any.
            finish_reason: Reason for the end of the answer. None means that more follows.
        """
        choice: ChunkChoice = {
            "index": index,
            "logprobs": None,
            **content,
            "finish_reason": finish_reason,
        }
        chunk: Chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def step(self, step: dict[str, object]) -> Chunk:
        """Return a chunk that reports a gradient step."""
        return {**self._head, "choices": [], "ttft_step": step}

    def last_chunks(
        self, end: ChoiceEnd, usage: Usage, record: TTFTRecord | list[TTFTRecord]
    ) -> list[Chunk]:
        """Return the last chunks; the very last has the record.

        Args:
            end: End of the answer that ended last.
            usage: Usage of all answers.
            record: The record, or one for each of several prompts.
        """
        chunks = [self.chunk(end.index, end.content, end.finish_reason)]
        if self._include_usage:
            chunks.append({**self._head, "choices": [], "usage": usage})
        chunks[-1]["ttft"] = record
        return chunks


def new_id(prefix: str) -> str:
    """Return an identifier that no other object has."""
    return f"{prefix}-{uuid.uuid4().hex}"
