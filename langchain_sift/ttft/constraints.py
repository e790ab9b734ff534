"""Constrain answers to grammars, token by token, with llguidance.

Each constrained row has a matcher of its own, so other rows are neither read nor changed. A row
also has a plan: tokens that complete its answer from where it is. A token after which no plan fits
into the rest of `max_tokens` is replaced by the next one of the plan, so the answer is complete
whenever `max_tokens` has room for the first plan. An answer that takes too many steps to plan, as
one with thousands of items, continues without a plan and may be cut by `max_tokens`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

# Preference of tokens in a plan: those that close something, digits, others, those that open.
_CLOSING, _QUOTE, _DIGIT, _OTHER, _ESCAPE, _OPENING, _NEVER = range(7)
_CLOSERS, _OPENERS = frozenset(b'"]}'), frozenset(b"[{")
_RETRY = 32  # tokens between two attempts to find a plan
_SWEEP = 32  # tokens between two attempts to end a long string with any character
_MOST_STEPS = 10_000  # of all plans of an answer; then it continues without a plan
_VARIETY, _REPEATED = 0.5, 0.01  # a plan that repeats itself would never end


Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
"""For each token, whether it may come."""


class Vocabulary:
    """The tokens of one model, as matchers read them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the tokens, which takes a second for a large vocabulary.

        Raises:
            ArgumentError: If llguidance cannot read the tokenizer, or it has no end of text.
        """
        if tokenizer.eos_token_id is None:
            raise ArgumentError("an answer in a given format needs a tokenizer with an eos_token")
        self.size = max(tokenizer.get_vocab().values()) + 1
        self.end = int(tokenizer.eos_token_id)
        fast: Any = tokenizer
        try:
            self.tokens = from_tokenizer(fast, n_vocab=self.size, eos_token=self.end)
        except Exception as error:  # of kinds that llguidance does not name
            raise ArgumentError(
                f"answers of a {type(tokenizer).__name__} cannot be held to a format: {error}"
            ) from error
        texts = [self.tokens.decode_bytes([token]) for token in range(self.size)]
        marks = [self.tokens.is_special_token(token) for token in range(self.size)]
        self._marks = np.array(marks, dtype=bool)
        single = {text[0]: token for token, text in enumerate(texts) if len(text) == 1}
        self._quote = single.get(ord('"'), self.end)
        codes = sorted(code for code in single if chr(code).isalnum() and code < 128)
        self._characters = [single[code] for code in codes]
        self.ranks = np.array([_rank(text) for text in texts], dtype=np.float32)
        self.kinds = np.array([_kind(text) for text in texts], dtype=np.int16)
        self._compiled = functools.lru_cache(maxsize=32)(self._compile)

    def matcher(self, grammar: str) -> LLMatcher:
        """Return a matcher at the beginning of an answer; the last grammars are compiled once.

        Raises:
            ArgumentError: If the grammar is invalid or too large.
        """
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self.tokens, grammar)
        if matcher.is_error():
            raise ArgumentError(f"the answer's format is not supported: {matcher.get_error()}")
        return matcher

    def allowed(self, matcher: LLMatcher, ends: frozenset[int]) -> Mask:
        """Return which tokens may come next: ends of the answer only if nothing else may."""
        bitmask = allocate_token_bitmask(1, self.size)
        fill_next_token_bitmask(matcher, bitmask)
        bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: self.size].astype(bool)
        bits[self.end] = False
        others = bits.copy()
        others[[end for end in ends if end < self.size]] = False
        return others if others.any() else bits

    def plan(self, matcher: LLMatcher, room: int, ends: frozenset[int]) -> list[int] | None:
        """Return tokens that complete the answer, and the end; None if they exceed the room."""
        matcher = matcher.deep_copy()
        plan: list[int] = []
        costs, step = self.ranks.copy(), 0
        while not matcher.is_accepting():
            following = matcher.compute_ff_tokens()
            if not following or ends.intersection(following):
                allowed = self.allowed(matcher, ends)
                token = self._nearest_to_end(matcher, allowed, costs, step)
                if token is None:
                    return None
                costs[self.kinds == self.kinds[token]] += _VARIETY
                costs[token] += _REPEATED
                step += 1
                following = [token]
            plan += following
            if len(plan) > room or not matcher.consume_tokens(following):
                return None
        return [*plan, self.end]

    def _nearest_to_end(
        self, matcher: LLMatcher, allowed: Mask, costs: np.ndarray[Any, Any], step: int
    ) -> int | None:
        """Return the allowed token that closes most, or else that was taken least so far."""
        if (allowed & self._marks).any():  # such as the end of reasoning
            return int((allowed & self._marks).argmax())
        if (ending := self._end_of_string(matcher, allowed, step)) is not None:
            return ending
        (candidates,) = np.nonzero(allowed)
        if not candidates.size:
            return None
        return int(candidates[costs[candidates].argmin()])

    def _end_of_string(self, matcher: LLMatcher, allowed: Mask, step: int) -> int | None:
        """Return a quote, or a character after which one may come; None outside of strings."""
        if not self._characters or not allowed[self._characters[-1]]:
            return None  # "z" may come only inside of a string
        if allowed[self._quote]:
            return self._quote
        all_of_them = step < _SWEEP or step % _SWEEP == 0
        characters = self._characters if all_of_them else self._characters[-1:]
        ends = (
            character
            for character in characters  # one may complete what a pattern asks for
            if matcher.validate_tokens([character, self._quote]) == 2
        )
        return next(ends, None)


vocabulary_of = once_per_tokenizer(Vocabulary)


class Constraint:
    """The grammar of one answer, and how far the answer has come."""

    def __init__(
        self, vocabulary: Vocabulary, grammar: str, max_tokens: int, end_tokens: frozenset[int]
    ) -> None:
        """Start at the beginning of an answer.

        Args:
            vocabulary: The model's tokens.
            grammar: A grammar as `LLMatcher` takes it.
            max_tokens: Maximum number of tokens of the answer.
            end_tokens: Tokens that end an answer.
        """
        self.complete = False
        """If True, the answer is complete and nothing may follow."""
        self.shortened = False
        """If True, the answer was brought to its end because `max_tokens` was near."""
        self.finish_reason = "stop"
        """"length" if the end took the place of a call for which there was no room."""
        self._vocabulary = vocabulary
        self._matcher = vocabulary.matcher(grammar)
        self._left = max_tokens
        self._end_tokens = end_tokens
        self._steps = _MOST_STEPS
        self._plan = self._find_plan(self._matcher, max_tokens)

    def _find_plan(self, matcher: LLMatcher, room: int) -> list[int] | None:
        plan = self._vocabulary.plan(matcher, min(room, self._steps), self._end_tokens)
        self._steps -= min(room, self._steps) if plan is None else len(plan)
        return plan

    def mask(self, size: int) -> torch.Tensor:
        """Return which of the tokens of a model with this many may come next."""
        found = self._vocabulary.allowed(self._matcher, self._end_tokens)[:size]
        allowed = torch.zeros(size, dtype=torch.bool)
        allowed[: len(found)] = torch.from_numpy(found)
        if self._matcher.is_accepting():
            allowed[list(self._end_tokens)] = True
        return allowed

    def take(self, token: int) -> int:
        """Advance by a token, or by another if no complete answer could begin so.

        Returns:
            The token that was taken.
        """
        self._left -= 1
        if token in self._end_tokens and self._matcher.is_accepting():
            self.complete = True
            return token
        token = self._replace(token)
        if token == self._vocabulary.end:
            self.complete = True
            self.finish_reason = "length"
            return min(self._end_tokens, default=token)
        self._matcher.consume_token(token)
        self.complete = self._matcher.is_stopped()
        self.complete |= self._matcher.is_accepting() and not self._end_tokens
        return token

    def _replace(self, token: int) -> int:
        """Return the token, or the next of the plan in its place, and update the plan."""
        if self._plan is None and self._left % _RETRY == 0:
            self._plan = self._find_plan(self._matcher, self._left + 1)
        plan = self._plan
        if plan is None:  # the end was not near enough, as in reasoning that a text ends
            return token
        # All of the plan may follow inside of a string, or what the token leaves of it.
        valid, rests = self._matcher.validate_tokens, [plan[done:] for done in range(8)]
        new = next((r for r in rests[::-1] if r and valid([token, *r]) > len(r)), None)
        if new is None:
            after = self._matcher.deep_copy()
            if after.consume_token(token):
                new = self._find_plan(after, self._left)
                if new is None and self._steps <= 0:
                    self._plan = None
                    return token
                self.shortened |= new is None
        if new is None or len(new) - 1 > self._left:
            self.shortened |= new is not None
            token, new = plan[0], plan[1:]
        self._plan = new
        return token


def _rank(text: bytes) -> int:
    """Return the preference of a token in a plan; the lowest first."""
    stripped = text.strip()
    if not stripped or b"\\" in stripped:
        return _ESCAPE
    if stripped == b'"':
        return _QUOTE
    if _CLOSERS.issuperset(stripped):
        return _CLOSING
    if stripped.isdigit():
        return _DIGIT
    return _OPENING if _OPENERS.intersection(stripped) else _OTHER


def _kind(text: bytes) -> int:
    """Return a number that tokens of similar text share."""
    return 256 if text.isalpha() else 257 if text.isdigit() else (text or b"\0")[0]
