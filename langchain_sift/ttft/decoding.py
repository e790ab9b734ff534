"""Turn tokens into text as they are generated, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    PreTrainedTokenizerBase,
)

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose other bytes are to come
_DECODED_AGAIN = 16  # tokens that are decoded again for each new token, about


class TextDecoder:
    """Decodes one answer token by token. A piece of text ends where a character ends."""

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
        if len(self._token_ids) > _DECODED_AGAIN and piece:
            self._drop_old_tokens()
        return piece

    def flush(self) -> str:
        """Return the text that was not complete."""
        return self._decode(self._token_ids)[len(self._text) :]

    def _drop_old_tokens(self) -> None:
        """Keep only the last tokens, if decoding them alone gives the end of the text.

        Decoding gives another text if the first of them is inside a character, which has up to
        four bytes. Some tokenizers drop the space before a first token, so some more are kept.
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
        """True once a stop string was read. The text is then complete."""
        self._stop = stop
        self._buffer = ""

    def add(self, piece: str) -> str:
        """Append a piece and return the text that certainly comes before a stop string."""
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
