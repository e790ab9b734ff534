"""Decode the tokens of one answer, piece by piece, and find its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.model.control_tokens import special_token_ids
from langchain_sift.ttft.reasoning import ReasoningSplitter, ReasoningText
from langchain_sift.ttft.stop_strings import StopStrings

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose other bytes are to come
_MAX_DECODED = 16  # with more tokens than this, drop those that no longer matter


class AnswerDecoder:
    """Turns the tokens of one answer into its text, and finds the answer's end."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        end_tokens: frozenset[int],
        *,
        prompt: Sequence[int] = (),
    ) -> None:
        """Start without tokens.

        Args:
            tokenizer: The model's tokenizer.
            config: Settings of the answer: `max_tokens`, `stop`, `reasoning` and
                `keep_special_tokens`.
            end_tokens: Tokens that end an answer.
            prompt: Tokens before the answer.
        """
        self.tokens = 0
        """Number of tokens so far."""
        self.reasoning_tokens = 0
        """Number of those of the reasoning, its markers and the white space after it included."""
        self.finish_reason: str | None = None
        """"stop" or "length" once the answer is complete."""
        self.reasoning = ReasoningText()
        """The reasoning that the last token completes."""
        self.produced = 0
        """Number of characters of content so far, those included that a stop string may cut."""
        self._max_tokens = config.max_tokens
        self._end_tokens = end_tokens
        markers = config.reasoning
        self._text = TextDecoder(
            tokenizer,
            keep_special_tokens=config.keep_special_tokens,
            kept=(markers.opening + markers.closing) if markers else "",
            prompt=prompt,
        )
        self._splitter = ReasoningSplitter(markers) if markers else None
        self._stop = StopStrings(config.stop) if config.stop else None

    def add(self, token_id: int) -> str:
        """Append a token and return the content that it completes."""
        self.tokens += 1
        self.reasoning = ReasoningText()
        if token_id in self._end_tokens:
            return self._finish("stop")
        text = self._content(self._text.add(token_id))
        if self._splitter is not None and self._splitter.in_reasoning:
            self.reasoning_tokens = self.tokens
        if self._stop is not None:
            text = self._stop.add(text)
        if self.was_cut:
            self.finish_reason = "stop"
        elif self.tokens >= self._max_tokens:
            text += self._finish("length")
        return text

    @property
    def was_cut(self) -> bool:
        """True if the answer ended at a stop string."""
        return self._stop is not None and self._stop.reached

    def end(self, reason: str) -> str:
        """End the answer for this reason, and return the content that was not complete."""
        text = self._finish(reason) if self.finish_reason is None else ""
        self.finish_reason = reason
        return text

    def _finish(self, reason: str) -> str:
        self.finish_reason = reason
        text = self._content(self._text.flush(), complete=True)
        if self._stop is not None:
            text = self._stop.add(text) + self._stop.flush()
            if self.was_cut:
                self.finish_reason = "stop"
        return text

    def _content(self, text: str, *, complete: bool = False) -> str:
        """Return the content in a new text, and keep the reasoning in it."""
        content = text
        if self._splitter is not None:
            reasoning, content = self._splitter.add(text)
            if complete:
                more, rest = self._splitter.flush()
                reasoning, content = ReasoningText(reasoning + more), content + rest
            self.reasoning = ReasoningText(self.reasoning + reasoning)
        self.produced += len(content)
        return content


class TextDecoder:
    """Decodes tokens one by one. A piece of text ends where a character ends."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep_special_tokens: bool,
        kept: str = "",
        prompt: Sequence[int] = (),
    ) -> None:
        """Start without tokens.

        Args:
            tokenizer: The model's tokenizer.
            keep_special_tokens: If True, special tokens are text as well.
            kept: Special tokens whose names are in this are text in any case.
            prompt: Tokens before the first. The text can be appended to that of the prompt: some
                tokenizers decode a space before a word only if something precedes it.
        """
        self._tokenizer = tokenizer
        special = special_token_ids(tokenizer)
        dropped = {token_id for name, token_id in special.items() if name not in kept}
        self._dropped = frozenset() if keep_special_tokens else frozenset(dropped)
        self._skip_special_tokens = not keep_special_tokens and len(dropped) == len(special)
        self._token_ids = [token for token in prompt[-_MAX_DECODED:] if token not in dropped][-8:]
        self._text = self._decode(self._token_ids) if self._token_ids else ""
        if self._text.endswith(_INCOMPLETE):
            self._token_ids, self._text = [], ""

    def add(self, token_id: int) -> str:
        """Append a token and return the text that it completes."""
        self._token_ids.append(token_id)
        text = self._decode(self._token_ids)
        if text.endswith(_INCOMPLETE):
            return ""
        piece = text[len(self._text) :]
        self._text = text
        if len(self._token_ids) > _MAX_DECODED and piece:
            self._drop_old_tokens()
        return piece

    def flush(self) -> str:
        """Return the text that was not complete."""
        return self._decode(self._token_ids)[len(self._text) :]

    def _drop_old_tokens(self) -> None:
        """Keep only the last tokens, if decoding them alone gives the end of the text.

        It does not if the first of them is inside a character, which has up to four bytes. Some
        tokenizers drop the space before a first token, so several tokens are kept.
        """
        for count in range(8, 12):
            end = self._decode(self._token_ids[-count:])
            if _INCOMPLETE not in end and self._text.endswith(end):
                self._token_ids = self._token_ids[-count:]
                self._text = end
                return

    def _decode(self, token_ids: list[int]) -> str:
        if not self._skip_special_tokens and self._dropped:
            token_ids = [token for token in token_ids if token not in self._dropped]
        text: Any = self._tokenizer.decode(
            token_ids,
            skip_special_tokens=self._skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return str(text)
