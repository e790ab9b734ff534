"""Give the log-probabilities of tokens in OpenAI's two forms: of chats and of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from transformers import PreTrainedTokenizerBase

from langchain_sift.checks import check_integer
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import PromptScores, TokenScore
from langchain_sift.ttft.model.token_bytes import TokenBytes, offsets, token_bytes

_MOST = 20  # as OpenAI


class TokenLogprob(TypedDict):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TokenLogprob):
    """A token of an answer, with the likeliest tokens in its place."""

    top_logprobs: list[TokenLogprob]


class TextLogprobs(TypedDict):
    """The tokens of a text in parallel lists; the first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class AnswerScores:
    """The scores of the tokens of one answer, as they come."""

    def __init__(self) -> None:
        """Start without scores."""
        self.prompt: Sequence[TokenScore] = ()
        """Those of the prompt's tokens without the first, once there are any."""
        self._new: list[TokenScore] = []

    def add(self, event: TokenScore | PromptScores) -> None:
        """Add the score of one more token, or those of the prompt."""
        if isinstance(event, TokenScore):
            self._new.append(event)
        else:
            self.prompt = event.scores

    def take(self) -> list[TokenScore]:
        """Return the scores of the answer's tokens that were not taken yet."""
        taken, self._new = self._new, []
        return taken


def top_scores(call: Mapping[str, Any]) -> int | None:
    """Return the number of likeliest tokens that a call asks for; None without `logprobs`.

    Raises:
        ArgumentError: If `logprobs` is no flag, or `top_logprobs` is not from 0 to 20.
    """
    asked, top = call.get("logprobs"), call.get("top_logprobs")
    if not isinstance(asked, bool | None):
        raise ArgumentError(f"logprobs must be True or False, got {asked!r}")
    if top is not None:
        check_integer("top_logprobs", top, 0)
        if top > _MOST:
            raise ArgumentError(f"top_logprobs must be at most {_MOST}, got {top}")
    if top and not asked:
        raise ArgumentError("top_logprobs needs logprobs=True")
    return (top or 0) if asked else None


def content_logprobs(
    tokenizer: PreTrainedTokenizerBase, scores: Sequence[TokenScore]
) -> list[ContentLogprob]:
    """Return the tokens of an answer to a conversation, without the token that ends it."""
    text_of = token_bytes(tokenizer)
    return [
        {
            **_token(text_of, score.token_id, score.log_p),
            "top_logprobs": [_token(text_of, *likely) for likely in score.top],
        }
        for score in scores
        if not score.is_end
    ]


def _token(text_of: TokenBytes, token_id: int, log_p: float) -> TokenLogprob:
    text = text_of(token_id)
    return {"token": text.decode(errors="replace"), "logprob": log_p, "bytes": [*text]}


def text_logprobs(
    tokenizer: PreTrainedTokenizerBase,
    scores: Sequence[TokenScore],
    *,
    first: int | None = None,
    start: int = 0,
    invisible: int = 0,
    text: str = "",
) -> TextLogprobs:
    """Return the tokens of a text, that which ends it included.

    Args:
        tokenizer: The model's tokenizer.
        scores: The scores of the tokens.
        first: A token before the others, which nothing predicts. None means none.
        start: Number of characters of the text before these tokens.
        invisible: Number of tokens at the beginning that are no part of the text.
        text: The text, if it may lack the space with which some tokenizers begin every text.
    """
    text_of = token_bytes(tokenizer)
    before = [] if first is None else [first]
    texts = [text_of(token_id) for token_id in [*before, *(score.token_id for score in scores)]]
    texts[:invisible] = [b""] * invisible
    if text and not text.startswith(" ") and b"".join(texts).startswith(b" "):
        texts[invisible] = texts[invisible][1:]
    return {
        "tokens": [text.decode(errors="replace") for text in texts],
        "token_logprobs": [*(None for _ in before), *(score.log_p for score in scores)],
        "top_logprobs": [*(None for _ in before), *(_likeliest(text_of, s) for s in scores)],
        "text_offset": offsets(texts, start),
    }


def _likeliest(text_of: TokenBytes, score: TokenScore) -> dict[str, float]:
    """Return the likeliest tokens and the token itself; of two with one text, the likelier."""
    likeliest: dict[str, float] = {}
    for token_id, log_p in [*score.top, (score.token_id, score.log_p)]:
        likeliest.setdefault(text_of(token_id).decode(errors="replace"), log_p)
    return likeliest
