"""From texts to the token ids that are learned from, asked with and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document as the model learns from it."""

    index: int
    """Its place among the documents that were given."""

    token_ids: tuple[int, ...]
    """With the special tokens of the tokenizer; at most `max_length`."""

    truncated: bool
    """Whether text at its end was left out."""


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int
) -> list[TokenizedDocument]:
    """Tokenize the documents that can be learned from, in the order given.

    A document longer than `max_length` tokens is cut there. One of fewer than two tokens, not
    counting special ones, teaches nothing and is left out: its index is missing.
    """
    documents = []
    for index, text in enumerate(texts):
        encoded = tokenizer(text, return_special_tokens_mask=True, verbose=False)
        token_ids = encoded["input_ids"]
        if len(token_ids) - sum(encoded["special_tokens_mask"]) < 2:  # noqa: PLR2004
            continue
        kept = tuple(token_ids[:max_length])
        documents.append(TokenizedDocument(index, kept, len(token_ids) > max_length))
    return documents


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that a text begins with, so that its first token can be predicted."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return []


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text without special ones."""
    token_ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return token_ids
