"""Tokenize texts for training, prompting and scoring, and count training tokens."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.texts import well_formed

# Bounds the part of a text that is tokenized for a document of `max_length` tokens.
_CHARACTERS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document to train on, as token ids."""

    index: int
    """Index of the document among the request's texts."""

    token_ids: tuple[int, ...]
    """At most `max_length` token ids, the tokenizer's special tokens included."""

    truncated: bool
    """If True, the end of the text was cut off."""

    def truncate(self, max_length: int) -> TokenizedDocument:
        """Return the document with at most `max_length` tokens."""
        if len(self.token_ids) <= max_length:
            return self
        return TokenizedDocument(self.index, self.token_ids[:max_length], truncated=True)


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    max_documents: int | None = None,
) -> list[TokenizedDocument]:
    """Tokenize the first documents that are long enough to train on, in order.

    Args:
        tokenizer: The tokenizer of the model.
        texts: The texts. Those with fewer than two tokens, special tokens not counted, are
            skipped: their index is missing from the result.
        max_length: Number of tokens at which a document is cut.
        max_documents: Number of documents at which to stop. Later texts are not read. None means
            no limit.
    """
    documents: list[TokenizedDocument] = []
    for index, text in enumerate(texts):
        if len(documents) == max_documents:
            break
        encoded = _encode(tokenizer, well_formed(text), max_length)
        token_ids = encoded["input_ids"]
        if len(token_ids) - sum(encoded["special_tokens_mask"]) < 2:
            continue
        kept = tuple(token_ids[:max_length])
        documents.append(TokenizedDocument(index, kept, len(token_ids) > max_length))
    return documents


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, max_length: int
) -> Mapping[str, list[int]]:
    """Return the tokens of a text, or more than `max_length` of them if it is very long."""
    start = text[: _CHARACTERS_PER_TOKEN * max_length]
    encoded: Any = tokenizer(start, return_special_tokens_mask=True, verbose=False)
    # A cut changes only the tokens next to it.
    if len(start) < len(text) and len(encoded["input_ids"]) <= 2 * max_length:
        encoded = tokenizer(text, return_special_tokens_mask=True, verbose=False)
    return cast("Mapping[str, list[int]]", encoded)


def max_token_count(text: str, max_length: int) -> int:
    """Return an upper bound of the number of tokens of a document, without tokenizing it."""
    # A token has at least one byte; some tokenizers add one at the beginning and one at the end.
    size = len(text[:max_length].encode("utf-8", "surrogatepass")) + 2
    return min(max_length, size)


def training_tokens(lengths: Sequence[int], config: FineTuneConfig) -> int:
    """Return the number of tokens that training reads at most.

    Args:
        lengths: Number of tokens of each document, or an upper bound of it.
        config: Steps per document, and the budget of documents and tokens.
    """
    # Any of the documents may turn out too short, and another take its part of the budget.
    longest = heapq.nlargest(config.max_documents or len(lengths), lengths)
    return _within_budget(sum(longest), config)


def max_training_tokens(count: int, config: FineTuneConfig) -> int:
    """Return the number of tokens that training on `count` unknown documents reads at most."""
    return _within_budget(min(count, config.max_documents or count) * config.max_length, config)


def _within_budget(tokens: int, config: FineTuneConfig) -> int:
    tokens *= config.steps_per_document
    return min(tokens, config.max_train_tokens or tokens)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token to put before a text so that its first token can be predicted."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return []


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text without special tokens."""
    encoded = tokenizer(well_formed(text), add_special_tokens=False, verbose=False)
    token_ids: list[int] = encoded["input_ids"]
    return token_ids
