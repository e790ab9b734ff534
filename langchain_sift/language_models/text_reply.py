"""Convert the answer of a text model to generations, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.outputs import Generation, GenerationChunk
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.modes import prompt_with_context
from langchain_sift.language_models.token_logprobs import TextLogprobs, text_logprobs
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import plain_tokens, start_tokens, text_tokens

OF_TEXTS = ("echo", "token_ids")
"""Arguments of a call that only text models have."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """The prompt of a text model."""

    text: str

    token_ids: Sequence[int] | None = None
    """Its tokens. None means that the tokenizer finds them."""

    echo: bool = False
    """If True, the answer repeats it."""

    @classmethod
    def of(cls, text: str, call: Mapping[str, Any]) -> Self:
        """Return the prompt of a call.

        Raises:
            ArgumentError: If `echo` is no flag, or `token_ids` no sequence of integers.
        """
        echo, token_ids = call.get("echo", False), call.get("token_ids")
        if not isinstance(echo, bool):
            raise ArgumentError(f"echo must be True or False, got {echo!r}")
        if token_ids is not None and not _are_integers(token_ids):
            raise ArgumentError(f"token_ids must be a list of integers, got {token_ids!r}")
        return cls(text, token_ids, echo)

    def tokens(self, tokenizer: PreTrainedTokenizerBase, *, limit: int | None = None) -> list[int]:
        """Return the tokens of the prompt without documents; see `text_tokens`."""
        if self.token_ids is not None:
            return [*self.token_ids]
        return text_tokens(tokenizer, self.text, limit=limit)

    def render(self, model: LanguageModel, context: str) -> list[int]:
        """Return the token ids of the prompt with a context; "" means no context."""
        tokenizer, limit = model.tokenizer, model.context_length
        if not context:
            return self.tokens(tokenizer, limit=limit)
        if self.token_ids is None and not self.echo:
            return text_tokens(tokenizer, prompt_with_context(self.text, context), limit=limit)
        # The tokens of the prompt stay as they are.
        own, start = self.tokens(tokenizer, limit=limit), start_tokens(tokenizer)
        if own[: len(start)] == start:
            own = own[len(start) :]
        return [*text_tokens(tokenizer, prompt_with_context("", context)), *own]

    def invisible(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the number of tokens before the text of the prompt."""
        if self.token_ids is not None:
            start = start_tokens(tokenizer)
            return len(start) if [*self.token_ids[: len(start)]] == start else 0
        return len(self.tokens(tokenizer)) - len(plain_tokens(tokenizer, self.text))


class TextAnswer:
    """One answer as it is generated, after its prompt if the call asks for it."""

    def __init__(self, answer: Answer, prompt: TextPrompt, *, is_scored: bool) -> None:
        """Prepare to read an answer.

        Args:
            answer: The answer, not started.
            prompt: Its prompt.
            is_scored: True if the log-probabilities of the tokens are part of the answer.
        """
        self.answer = answer
        self._prompt = prompt
        self._is_scored = is_scored
        self._length = 0  # characters of the text so far
        self._echoes = prompt.echo  # until the prompt was repeated

    def generation(self, pieces: Iterable[str]) -> Generation:
        """Convert the pieces of a complete answer."""
        whole = GenerationChunk(text="")
        for chunk in (*self._chunks("".join(pieces)), *self._last_chunks()):
            whole += chunk
        return Generation(text=whole.text, generation_info=whole.generation_info)

    def __iter__(self) -> Iterator[GenerationChunk]:
        """Generate the answer, and yield it in chunks; the last carries the metadata."""
        for piece in self.answer:
            yield from self._chunks(piece)
        yield from self._last_chunks()

    async def __aiter__(self) -> AsyncGenerator[GenerationChunk]:
        """Do the same without blocking the event loop."""
        async with aclosing(aiter(self.answer)) as pieces:
            async for piece in pieces:
                for chunk in self._chunks(piece):
                    yield chunk
        for chunk in self._last_chunks():
            yield chunk

    def _chunks(self, piece: str) -> Iterator[GenerationChunk]:
        """Yield a piece of the answer, and before the first piece the prompt."""
        if self._echoes:
            self._echoes = False
            yield self._chunk(self._prompt.text, self._logprobs_of_prompt())
        yield self._chunk(piece, self._logprobs())

    def _last_chunks(self) -> Iterator[GenerationChunk]:
        """Yield the metadata."""
        if self._echoes:
            yield from self._chunks("")
        info: dict[str, object] = {
            "finish_reason": self.answer.finish_reason,
            "ttft": self.answer.metadata,
            "usage": self.answer.usage,
        }
        yield self._chunk("", self._logprobs(), info)

    def _chunk(
        self, text: str, logprobs: TextLogprobs | None, info: Mapping[str, object] | None = None
    ) -> GenerationChunk:
        self._length += len(text)
        described = {**(info or {}), **({"logprobs": logprobs} if logprobs else {})}
        return GenerationChunk(text=text, generation_info=described or None)

    def _logprobs(self) -> TextLogprobs | None:
        """Return the log-probabilities of the tokens since the last chunk."""
        scores = self.answer.scores.take()
        if not scores:
            return None
        return text_logprobs(self.answer.tokenizer, scores, start=self._length)

    def _logprobs_of_prompt(self) -> TextLogprobs | None:
        if not self._is_scored:
            return None
        tokenizer = self.answer.tokenizer
        own = self._prompt.tokens(tokenizer)
        if not own:  # an empty prompt, and the tokenizer puts nothing before a text
            return None
        scores = self.answer.scores.prompt
        # Documents may come before the prompt.
        following = scores[len(scores) - len(own) + 1 :]
        invisible = self._prompt.invisible(tokenizer)
        return text_logprobs(
            tokenizer, following, first=own[0], invisible=invisible, text=self._prompt.text
        )


def _are_integers(values: object) -> bool:
    """Return True for a sequence of integers."""
    return isinstance(values, Sequence) and all(type(value) is int for value in values)


def is_last(chunk: GenerationChunk) -> bool:
    """Return True for the chunk that carries the metadata of the answer."""
    return "finish_reason" in (chunk.generation_info or {})
