"""Follow the answers of a batch, row by row: the next token, its text, and the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.answering.token_scores import token_score
from langchain_sift.ttft.constrained_decoding import Constraint
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.grammars import vocabulary_of
from langchain_sift.ttft.requests import Pairs, PromptScores, TokenScore
from langchain_sift.ttft.sampling import sampler_of


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt to continue, and the callbacks for its answer."""

    prompt: Sequence[int]
    """Token ids. The model's context has room for them and `config.max_tokens` more."""

    config: GenerationConfig

    on_text: Callable[[str], bool]
    """Called after each token with the text that it completes, perhaps none, up to the first stop
    string. If it returns True, the answer ends there."""

    on_end: Callable[..., object]
    """Called with the number of tokens and the reason, "stop" or "length", when the answer is
    complete. Its keyword `early` is True if the grammar was completed early to fit
    `max_tokens`, and `reasoning_tokens` is the number of tokens of the reasoning. Other rows may go
    on."""

    grammar: str | None = None
    """The grammar that the answer follows, as llguidance takes it. None means any text."""

    pairs: Pairs = ()
    """Texts to score before the answer."""

    on_scores: Callable[[tuple[float, ...]], object] = lambda _: None
    """Called with the negative log-likelihood of each target, in nats, if there are pairs."""

    top_scores: int | None = None
    """As in `GenerationTask`."""

    score_prompt: bool = False
    """As in `GenerationTask`."""

    on_token_score: Callable[[TokenScore], object] = lambda _: None
    """Called with the score of each token of the answer, if there are scores. A token beyond the
    stop string that ends the answer has none."""

    on_prompt_scores: Callable[[PromptScores], object] = lambda _: None
    """Called before the first token, if the prompt is scored."""


class AnswerRow:
    """The answer to one prompt."""

    def __init__(
        self,
        continuation: Continuation,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: frozenset[int],
        device: torch.device,
    ) -> None:
        """Start without tokens.

        Args:
            continuation: The prompt, the settings and the callbacks.
            tokenizer: The model's tokenizer.
            end_tokens: Tokens that end an answer.
            device: The device of the scores.
        """
        config, prompt = continuation.config, continuation.prompt
        self.done = False
        self.left = config.max_tokens
        """Maximum number of tokens to come."""
        self.logits: torch.Tensor | None = None
        """Scores from which the next token is chosen, shape (vocabulary,), if tokens are scored."""
        self._continuation = continuation
        self._end_tokens = end_tokens
        self._unreported: list[tuple[int, TokenScore]] = []  # with the beginnings of their texts
        self._reported_text = 0
        self._decoder = AnswerDecoder(tokenizer, config, end_tokens, prompt=prompt)
        self._sampler = sampler_of(config, len(prompt), device)
        self._tokens = list(prompt) if self._sampler else []
        self._constraint: Constraint | None = None
        if continuation.grammar is not None:
            self._constraint = Constraint(
                vocabulary_of(tokenizer), continuation.grammar, config.max_tokens, end_tokens
            )

    @property
    def is_greedy(self) -> bool:
        """True if the likeliest token is the next."""
        return self.done or (self._sampler is None and self._constraint is None)

    @property
    def is_scored(self) -> bool:
        """True if tokens are scored: `logits` must then be set before `add`."""
        return self._continuation.top_scores is not None and not self.done

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the next token, from the scores of all, shape (vocabulary,)."""
        scores = scores.float()[None]
        constraint = self._constraint
        if constraint is not None:
            allowed = constraint.mask(scores.shape[-1]).to(scores.device)
            scores = scores.masked_fill(~allowed, -torch.inf)
        if self._sampler is not None:
            scores = self._sampler.process(self._tokens, scores)
        token = scores.argmax()
        return token if constraint is None else token.new_tensor(constraint.take(int(token)))

    def end_if_empty(self) -> None:
        """End an answer that has no token."""
        if self.left == 0:
            self.done = True
            self._continuation.on_end(0, "length", early=False)

    def add(self, token_id: int) -> None:
        """Append a token, and pass on the text that it completes."""
        continuation, decoder, constraint = self._continuation, self._decoder, self._constraint
        self.left -= 1
        if self._sampler is not None:
            self._tokens.append(token_id)
        start = decoder.produced
        text = decoder.add(token_id)
        shortened = False
        if constraint is not None and constraint.complete:
            text += decoder.end(constraint.finish_reason)
            shortened = constraint.shortened
        if self.logits is not None and continuation.top_scores is not None:
            is_end = token_id in self._end_tokens
            score = token_score(self.logits, token_id, continuation.top_scores, is_end=is_end)
            self._report_score(start, score, text)
        stopped = bool(decoder.reasoning) and continuation.on_text(decoder.reasoning)
        stopped = continuation.on_text(text) or stopped
        if stopped or decoder.finish_reason is not None:
            self.done = True
            continuation.on_end(
                decoder.tokens,
                decoder.finish_reason or "stop",
                early=shortened,
                reasoning_tokens=decoder.reasoning_tokens,
            )

    def _report_score(self, start: int, score: TokenScore, text: str) -> None:
        """Report the scores of the tokens whose text begins before the end of the content so far.

        Args:
            start: Number of characters of content before the token.
            score: Score of the token.
            text: The content that the token releases.
        """
        decoder = self._decoder
        self._unreported.append((start, score))
        self._reported_text += len(text)
        complete = decoder.finish_reason is not None and not decoder.was_cut
        kept = []
        for beginning, known in self._unreported:
            if complete or beginning < self._reported_text:
                self._continuation.on_token_score(known)
            else:
                kept.append((beginning, known))
        self._unreported = kept
