"""Tokenize texts for training, prompting and scoring, and count training tokens."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import PromptTooLong
from langchain_sift.ttft.model.control_tokens import control_tokens
from langchain_sift.ttft.texts import well_formed
from langchain_sift.ttft.training.top_logits import TopLogits

# A tokenizer splits a text into words first: a few tokens decide how the next word is split.
_TOKENS_BEFORE = 8

_CHARACTERS_TO_CHECK = 16  # for each token of the context; natural languages need at most 10

CHARACTERS_PER_TOKEN = 32
"""Bounds the part of a text that is tokenized for a document of `max_length` tokens."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as token ids, of which only some count in the loss."""

    token_ids: tuple[int, ...]

    counted: tuple[int, ...]
    """Indices of the tokens that count, ascending; never 0, for the first has none before it."""


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document to train on, as token ids."""

    index: int
    """Index of the document among the request's texts."""

    token_ids: tuple[int, ...]
    """At most `max_length` token ids, with those that begin every text; see `text_tokens`."""

    truncated: bool
    """If True, the end of the text was cut off."""

    counted: tuple[int, ...] | None = None
    """As in `EncodedText`. None means all tokens but the first."""

    teacher: TopLogits | None = None
    """The next tokens by a teacher, at the positions before those that count. None means that the
    tokens themselves are learned."""

    def teaches_as(self, other: TokenizedDocument) -> bool:
        """Return True if a step on another document has the same gradient."""
        tokens = self.token_ids == other.token_ids and self.counted == other.counted
        return tokens and self.teacher is other.teacher

    def truncate(self, max_length: int) -> TokenizedDocument:
        """Return the document with at most `max_length` tokens."""
        if len(self.token_ids) <= max_length:
            return self
        counted = self.counted and tuple(index for index in self.counted if index < max_length)
        return TokenizedDocument(
            self.index,
            self.token_ids[:max_length],
            truncated=True,
            counted=counted,
            teacher=self.teacher and self.teacher[: len(counted or ())],
        )


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | EncodedText],
    *,
    max_length: int,
    max_documents: int | None = None,
) -> list[TokenizedDocument]:
    """Tokenize the first documents that are long enough to train on, in order.

    A document ends with its last word, without a token for the end of a text: most are parts of
    longer texts, and the model would learn to stop early.

    Args:
        tokenizer: The tokenizer of the model.
        texts: The texts. Those with fewer than two tokens are skipped: their index is missing from
            the result. Encoded texts stay as they are, but for the cut.
        max_length: Number of tokens at which a document is cut.
        max_documents: Number of documents at which to stop. Later texts are not read. None means
            no limit.
    """
    start = start_tokens(tokenizer)
    documents: list[TokenizedDocument] = []
    for index, text in enumerate(texts):
        if len(documents) == max_documents:
            break
        if isinstance(text, EncodedText):
            encoded = TokenizedDocument(
                index, text.token_ids, truncated=False, counted=text.counted
            )
            documents.append(encoded.truncate(max_length))
            continue
        _, token_ids = _beginning_of(tokenizer, text, max_length)
        if len(token_ids) < 2:
            continue
        whole = TokenizedDocument(index, (*start, *token_ids), truncated=False)
        documents.append(whole.truncate(max_length))
    return documents


def _beginning_of(
    tokenizer: PreTrainedTokenizerBase, text: str, max_length: int
) -> tuple[str, list[int]]:
    """Return the beginning of a text, and its tokens: more than `max_length` unless it is all."""
    start = text[: CHARACTERS_PER_TOKEN * max_length]
    token_ids = plain_tokens(tokenizer, start)
    # A cut changes only the tokens next to it.
    if len(start) < len(text) and len(token_ids) <= 2 * max_length:
        return text, plain_tokens(tokenizer, text)
    return start, token_ids


def cut_text(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> str:
    """Return the longest beginning of a text with at most `max_length` tokens."""
    start, token_ids = _beginning_of(tokenizer, well_formed(text), max_length)
    if len(token_ids) <= max_length:
        return start
    cut = str(tokenizer.decode(token_ids[:max_length], clean_up_tokenization_spaces=False))
    cut = cut.rstrip("\N{REPLACEMENT CHARACTER}")  # of a character that was cut
    if start.startswith(cut) and len(plain_tokens(tokenizer, cut)) <= max_length:
        return cut
    # The tokenizer normalizes texts.
    fits, too_long = 0, len(start)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(plain_tokens(tokenizer, start[:middle])) <= max_length:
            fits = middle
        else:
            too_long = middle
    return start[:fits]


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
    # With the objective "distill" there are up to three lessons about each document.
    lessons = 3 if config.objective == "distill" else 1
    documents = min(count, config.max_documents or count)
    return _within_budget(lessons * documents * config.max_length, config)


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
    """Return the tokens of a text alone.

    The names of control tokens in it are text; see `ControlTokens`.
    """
    text = well_formed(text)
    token_ids = _encode(tokenizer, text, special_tokens=False)
    control = control_tokens(tokenizer)
    if control.id_set.isdisjoint(token_ids):
        return token_ids
    return control.encode_text(text)


def tokens_after(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], text: str) -> list[int]:
    """Return the tokens of a text that follows other tokens.

    As lm-evaluation-harness does, tokenize both together: tokenizers in the style of SentencePiece
    put a space before a text that stands alone.

    Args:
        tokenizer: The tokenizer.
        before: The tokens before the text.
        text: The text, with the space that separates it, if there is one.
    """
    control = control_tokens(tokenizer)
    if before and before[-1] in control.id_set and before[-1] != tokenizer.unk_token_id:
        return control.encode_after(before[-1], well_formed(text))
    end = str(tokenizer.decode(list(before[-_TOKENS_BEFORE:]), skip_special_tokens=True))
    start, both = plain_tokens(tokenizer, end), plain_tokens(tokenizer, end + text)
    if not start or both[: len(start)] != start:  # a token spans the border
        return plain_tokens(tokenizer, text)
    return both[len(start) :]


def text_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, *, limit: int | None = None
) -> list[int]:
    """Return the tokens of a text after those with which the tokenizer begins every text.

    Tokens with which it ends every text, as some do after training with them, are left out:
    nothing could follow in a prompt, and a document is a part of a longer text.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        limit: The model's context, if the text is a prompt; see `check_not_far_beyond`.
    """
    check_not_far_beyond(tokenizer, text, limit)
    return [*start_tokens(tokenizer), *plain_tokens(tokenizer, text)]


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[int]:
    """Return the first of the `text_tokens`, without tokenizing all of a long text."""
    token_ids = _beginning_of(tokenizer, text, max_length)[1]
    return [*start_tokens(tokenizer), *token_ids][:max_length]


def check_not_far_beyond(tokenizer: PreTrainedTokenizerBase, text: str, limit: int | None) -> None:
    """Check that no beginning of a prompt has more than twice as many tokens as the context.

    A prompt of a megabyte takes seconds to tokenize, and its beginning milliseconds.

    Args:
        tokenizer: The tokenizer.
        text: The prompt.
        limit: Number of tokens of the context. None means any.

    Raises:
        PromptTooLong: If one has.
    """
    if limit is None:
        return
    size = _CHARACTERS_TO_CHECK * limit
    while size < len(text):
        # A cut changes only the tokens next to it.
        if len(_encode(tokenizer, well_formed(text[:size]), special_tokens=False)) > 2 * limit:
            raise PromptTooLong(
                f"the prompt is too long: it must have from 1 to {limit - 1} tokens, got more than "
                f"{2 * limit}"
            )
        size *= 4


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer puts before a text."""
    plain = _encode(tokenizer, "a", special_tokens=False)
    whole = _encode(tokenizer, "a", special_tokens=True)
    lengths = range(len(whole) - len(plain) + 1)
    return whole[: next((n for n in lengths if whole[n : n + len(plain)] == plain), 0)]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> list[int]:
    encoded: Any = tokenizer(text, add_special_tokens=special_tokens, verbose=False)
    return list(encoded["input_ids"])
