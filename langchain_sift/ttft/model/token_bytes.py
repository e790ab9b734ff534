"""Give the bytes that each token of a vocabulary stands for."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerBase

from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # of SentencePiece
TokenBytes = Callable[[int], bytes]


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """Return a function from the id of a token to its bytes.

    A character may have its bytes in several tokens. If llguidance cannot read the tokenizer, such
    a token decodes to a replacement character.
    """
    tokens = _read(tokenizer)
    if tokens is not None:
        size = tokens.vocab_size
        return lambda token_id: tokens.decode_bytes([token_id]) if token_id < size else b""

    def decoded(token_id: int) -> bytes:
        """Return the bytes of a token's text."""
        name: Any = tokenizer.convert_ids_to_tokens(token_id)
        if isinstance(name, str) and _SPACE in name:  # which decoding one token may drop
            return name.replace(_SPACE, " ").encode()
        text: Any = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return str(text).encode()

    return decoded


@once_per_tokenizer
def _read(tokenizer: PreTrainedTokenizerBase) -> LLTokenizer | None:
    fast: Any = tokenizer
    try:
        return from_tokenizer(fast)
    except Exception:  # noqa: BLE001 - of kinds that llguidance does not name
        return None


def offsets(texts: Sequence[bytes], start: int = 0) -> list[int]:
    """Return the number of characters before each token, in the text of all of them.

    Args:
        texts: The bytes of the tokens, in order.
        start: Number of characters before the first.
    """
    counts, decoder = [], codecs.getincrementaldecoder("utf-8")(errors="replace")
    for text in texts:
        has_begun = bool(decoder.getstate()[0])  # a character whose bytes do not end here
        counts.append(start + has_begun)
        start += len(decoder.decode(text))
    return counts
