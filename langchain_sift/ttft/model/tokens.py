"""From texts to the token ids that are learned from, asked with and scored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError

# A text so much longer than what is learned from it is not tokenized to its end.
_CHARACTERS_PER_TOKEN = 32

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document as the model learns from it."""

    index: int
    """Its place among the documents that were given."""

    token_ids: tuple[int, ...]
    """With the special tokens of the tokenizer; at most `max_length`."""

    truncated: bool
    """Whether text at its end was left out."""


def check_texts(name: str, texts: Any) -> None:
    """Reject what is no sequence of texts, such as one text, which would be one of letters.

    Raises:
        ArgumentError: If it is none.
    """
    whole = isinstance(texts, Iterable) and not isinstance(texts, str)
    others = [text for text in texts if not isinstance(text, str)] if whole else [texts]
    if others:
        got = "one text" if isinstance(texts, str) else f"a {type(others[0]).__name__}"
        raise ArgumentError(f"{name} must be a sequence of texts, got {got}")


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    max_documents: int | None = None,
) -> list[TokenizedDocument]:
    """Tokenize the first documents that can be learned from, in the order given.

    A document longer than `max_length` tokens is cut there. One of fewer than two tokens, not
    counting special ones, teaches nothing and is left out: its index is missing. Once there are
    `max_documents`, no other text is looked at.
    """
    documents: list[TokenizedDocument] = []
    for index, text in enumerate(texts):
        if len(documents) == max_documents:
            break
        encoded = _encoded(tokenizer, well_formed(text), max_length)
        token_ids = encoded["input_ids"]
        if len(token_ids) - sum(encoded["special_tokens_mask"]) < 2:
            continue
        kept = tuple(token_ids[:max_length])
        documents.append(TokenizedDocument(index, kept, len(token_ids) > max_length))
    return documents


def _encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, max_length: int
) -> Mapping[str, list[int]]:
    """Return the tokens of a text; of a very long one, more than `max_length` of them."""
    start = text[: _CHARACTERS_PER_TOKEN * max_length]
    encoded: Any = tokenizer(start, return_special_tokens_mask=True, verbose=False)
    # Where a text is cut decides about the tokens next to the cut only.
    if len(start) < len(text) and len(encoded["input_ids"]) <= 2 * max_length:
        encoded = tokenizer(text, return_special_tokens_mask=True, verbose=False)
    return cast("Mapping[str, list[int]]", encoded)


def well_formed(text: str) -> str:
    """Return the text with pairs of surrogates joined, and lone ones replaced by U+FFFD.

    They come of broken JSON and of files read with `surrogateescape`, and are no characters: a
    tokenizer refuses them.
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that a text begins with, so that its first token can be predicted."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return []


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text without special ones."""
    encoded = tokenizer(well_formed(text), add_special_tokens=False, verbose=False)
    token_ids: list[int] = encoded["input_ids"]
    return token_ids
