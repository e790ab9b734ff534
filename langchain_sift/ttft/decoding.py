"""Decode an answer token by token, and find its end: end token, stop string or `max_tokens`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose other bytes are to come
_MAX_DECODED = 16  # with more tokens than this, drop those that no longer matter


class AnswerDecoder:
    """Turns the tokens of one answer into its text, and finds the answer's end."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        end_tokens: frozenset[int],
    ) -> None:
        """Start without tokens.

        Args:
            tokenizer: The model's tokenizer.
            config: Settings of the answer: `max_tokens`, `stop` and `keep_special_tokens`.
            end_tokens: Tokens that end an answer.
        """
        self.tokens = 0
        """Number of tokens so far."""
        self.finish_reason: str | None = None
        """"stop" or "length" once the answer is complete."""
        self._max_tokens = config.max_tokens
        self._end_tokens = end_tokens
        self._text = TextDecoder(tokenizer, keep_special_tokens=config.keep_special_tokens)
        self._stop = StopStrings(config.stop)

    def add(self, token_id: int) -> str:
        """Append a token and return the text that it completes."""
        self.tokens += 1
        if token_id in self._end_tokens:
            return self._finish("stop")
        text = self._stop.add(self._text.add(token_id))
        if self._stop.reached:
            self.finish_reason = "stop"
        elif self.tokens >= self._max_tokens:
            text += self._finish("length")
        return text

    def _finish(self, reason: str) -> str:
        text = self._stop.add(self._text.flush()) + self._stop.flush()
        self.finish_reason = "stop" if self._stop.reached else reason
        return text


class TextDecoder:
    """Decodes tokens one by one. A piece of text ends where a character ends."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, keep_special_tokens: bool) -> None:
        """Start without tokens."""
        self._tokenizer = tokenizer
        self._skip_special_tokens = not keep_special_tokens
        self._token_ids: list[int] = []
        self._text = ""

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
        text: Any = self._tokenizer.decode(
            token_ids,
            skip_special_tokens=self._skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return str(text)


class StopStrings:
    """Cuts a text that comes in pieces before its first stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Start with an empty text."""
        self.reached = False
        """True once a stop string was found. The text is then complete."""
        self._stop = stop
        self._buffer = ""

    def add(self, piece: str) -> str:
        """Append a piece and return the text that cannot be part of a stop string."""
        text = self._buffer + piece
        starts = [start for start in (text.find(string) for string in self._stop) if start >= 0]
        if starts:
            self.reached = True
            self._buffer = ""
            return text[: min(starts)]
        overlap = max((_overlap(text, string) for string in self._stop), default=0)
        self._buffer = text[len(text) - overlap :]
        return text[: len(text) - overlap]

    def flush(self) -> str:
        """Return the text that could have been the beginning of a stop string."""
        text, self._buffer = self._buffer, ""
        return text


def _overlap(text: str, string: str) -> int:
    """Return how many characters at the end of the text may begin the string."""
    longest = min(len(string) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
