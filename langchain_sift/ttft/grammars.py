"""Read grammars with llguidance, and plan how answers can follow them to their ends."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

# Preference of tokens in a plan: those that close something, digits, others, those that open.
_CLOSING, _QUOTE, _DIGIT, _OTHER, _ESCAPE, _OPENING, _NEVER = range(7)
_CLOSERS, _OPENERS = frozenset(b'"]}'), frozenset(b"[{")
_LETTERS, _DIGITS = 256, 257  # kinds of tokens; those of others are their first bytes
_SWEEP = 32  # tokens between two attempts to end a long string with any character
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_NAME = re.compile(r'\A[^"{\[]*",\s*"\w+":\s*')  # the end of it, and the key of the arguments
_LONG_NUMBER = re.compile(r"[-+.\deE]{32}\Z")
_MIN_LENGTH = re.compile(r'"minLength":\s*(\d+)')
_ALTERNATIVES = re.compile(r'"anyOf"|"oneOf"|"enum"|"type":\s*\[')
_DEEP = 16  # brackets
_DEAD = "NoExtensionBias"  # llguidance's error where no token may come

# Allow more properties of an object than by default; other limits bound a step.
_LIMITS = LLParserLimits(max_items_in_row=20_000, verbose_errors=False)
_FIRST_STEPS = 8192  # tokens of the plan of a whole answer; beyond, it goes without a plan
_SLACK = 4  # a plan may be longer than the shortest answer by a quarter
_MOST_WORDS = 4096  # the longest words, of which plans of long strings are made
_PREFIX = 4  # tokens of a plan that are checked before all of it
_VARIETY, _REPEATED = 0.5, 0.01  # a plan that repeats itself would never end


Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
"""For each token, whether it may come."""


class Plan(NamedTuple):
    """Tokens that complete an answer, as far as they were looked for."""

    tokens: list[int]
    """The tokens, and the end."""

    new: int
    """Number of tokens that had to be looked for."""

    complete: bool = False
    """False if the tokens do not reach the end of the answer."""


class FirstPlan(NamedTuple):
    """The plan of a whole answer."""

    tokens: list[int] | None
    """The tokens, and the end. None if none were found, or if they exceed the room."""

    too_long: bool
    """True if every answer exceeds the room, by what the grammar asks for."""


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
        marks = [token for token in range(self.size) if self.tokens.is_special_token(token)]
        self._marks = np.array(marks, dtype=np.int64)
        single = {text[0]: token for token, text in enumerate(texts) if len(text) == 1}
        self._quote = single.get(ord('"'), self.end)
        codes = sorted(code for code in single if chr(code).isalnum() and code < 128)
        self._characters = [single[code] for code in codes]
        words = [n for n, text in enumerate(texts) if text.isalpha() and len(text) > 2]
        longest = sorted(set(words) - set(marks), key=lambda word: -len(texts[word]))
        self._words = np.array(longest[:_MOST_WORDS], dtype=np.int64)
        self._long_words = frozenset(longest[:_MOST_WORDS])
        self.ranks = np.array([_rank(text) for text in texts], dtype=np.float32)
        self.kinds = np.array([_kind(text) for text in texts], dtype=np.int16)
        self._by_kind = {int(kind): np.nonzero(self.kinds == kind)[0] for kind in set(self.kinds)}
        self._compiled = functools.lru_cache(maxsize=32)(self._compile)
        self._first_plans = functools.lru_cache(maxsize=64)(self._find_first_plan)

    def matcher(self, grammar: str) -> LLMatcher:
        """Return a matcher at the beginning of an answer; the last grammars are compiled once.

        Raises:
            ArgumentError: If the grammar is invalid or too large.
        """
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self.tokens, grammar, limits=_LIMITS, log_level=0)
        _check(matcher)
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

    def first_plan(self, grammar: str, room: int, ends: frozenset[int]) -> FirstPlan:
        """Return the plan of a whole answer; the last plans are found once.

        Args:
            grammar: The grammar.
            room: Maximum number of tokens of the answer.
            ends: Tokens that end an answer.

        Raises:
            ArgumentError: If the grammar is invalid or too large.
        """
        return self._first_plans(grammar, room, ends)

    def _find_first_plan(self, grammar: str, room: int, ends: frozenset[int]) -> FirstPlan:
        limit = min(room + room // _SLACK + 1, _FIRST_STEPS)
        plan = self.plan(self.matcher(grammar), limit, ends)
        if not plan.complete and _ALTERNATIVES.search(grammar):  # another may be shorter
            other = self.plan(self.matcher(grammar), limit, ends, brackets_first=True)
            plan = other if other.complete else plan
        if plan.complete:
            return FirstPlan(plan.tokens if len(plan.tokens) - 1 <= room else None, too_long=False)
        self.allowed(begun := self.matcher(grammar), ends)
        _check(begun)  # some grammars are found too large only here
        text = self.tokens.decode_bytes(plan.tokens).decode("utf-8", "replace")
        too_long = len(plan.tokens) >= limit > room and _is_as_long_as_asked(text, grammar)
        return FirstPlan(None, too_long)

    def plan(
        self,
        matcher: LLMatcher,
        room: int,
        ends: frozenset[int],
        *,
        known: list[int] | None = None,
        brackets_first: bool = False,
    ) -> Plan:
        """Look for tokens that complete an answer.

        Args:
            matcher: The answer so far.
            room: Maximum number of tokens to look for.
            ends: Tokens that end an answer.
            known: A plan; its rest is taken where it completes this answer too.
            brackets_first: If True, opening brackets are preferred to other tokens.
        """
        matcher = matcher.deep_copy()
        plan: list[int] = []
        costs = self.ranks.copy()
        if brackets_first:
            costs[costs == _OPENING] = -1
        in_text = 0  # tokens since the beginning of a string
        while not matcher.is_accepting():
            # Not within a string or a number, which any of the known tokens may continue.
            may_join = not plan or not (in_text or self.kinds[plan[-1]] == _DIGITS)
            if may_join and (rest := _rest_that_fits(matcher, known or [])):
                return Plan([*plan, *rest], len(plan), complete=True)
            if not (following := matcher.compute_ff_tokens()) and in_text > _SWEEP:
                following = self._more_of_string(matcher, plan[-1], in_text + 1)
                in_text += len(following)
            if not following or ends.intersection(following):
                allowed = self.allowed(matcher, ends)
                in_text = in_text + 1 if self._is_text(allowed) else 0
                token = self._nearest_to_end(matcher, allowed, costs, in_text)
                if token is None:
                    break
                costs[self._by_kind[int(self.kinds[token])]] += _VARIETY
                costs[token] += _REPEATED
                following = [token]
            plan += following
            if len(plan) > room or not matcher.consume_tokens(following):
                break
        else:
            return Plan([*plan, self.end], len(plan), complete=True)
        return Plan(plan, len(plan))

    def _nearest_to_end(
        self, matcher: LLMatcher, allowed: Mask, costs: np.ndarray[Any, Any], in_text: int
    ) -> int | None:
        """Return the allowed token that closes most brackets, else the one taken least often."""
        marks = self._marks[allowed[self._marks]]
        if marks.size and (in_text or marks.size == allowed.sum()):  # such as the end of reasoning
            return int(marks[0])
        if in_text:
            if (ending := self._end_of_string(matcher, allowed, in_text)) is not None:
                return ending
            words = self._words[allowed[self._words]]
            # The string has a minimum length, or else a pattern that asks for other characters.
            if words.size and in_text > _SWEEP and in_text % _SWEEP:
                return int(words[0])
        (candidates,) = np.nonzero(allowed)
        if not candidates.size:
            return None
        return int(candidates[costs[candidates].argmin()])

    def _more_of_string(self, matcher: LLMatcher, token: int, in_text: int) -> list[int]:
        """Return the last word of a long string again, if the string is still too short."""
        if in_text % _SWEEP == 0 or token not in self._long_words:
            return []
        return [token] if matcher.validate_tokens([token, self._quote]) == 1 else []

    def _is_text(self, allowed: Mask) -> bool:
        """Return True in a string or in free text, where alone "z" may come."""
        return bool(self._characters) and bool(allowed[self._characters[-1]])

    def _end_of_string(self, matcher: LLMatcher, allowed: Mask, in_text: int) -> int | None:
        """Return a quote, or a character after which one may come, if there is one."""
        if allowed[self._quote]:
            return self._quote
        all_of_them = in_text <= _SWEEP or in_text % _SWEEP == 0
        characters = self._characters if all_of_them else self._characters[-1:]
        ends = (
            character
            for character in characters  # one may complete what a pattern asks for
            if matcher.validate_tokens([character, self._quote]) == 2
        )
        return next(ends, None)


vocabulary_of = once_per_tokenizer(Vocabulary)


def _check(matcher: LLMatcher) -> None:
    """Raise an error if a matcher has failed."""
    if matcher.is_error():
        error = matcher.get_error()
        problem = "no answer can follow it; is a $ref its own target?" if _DEAD in error else error
        raise ArgumentError(f"the answer's format is not supported: {problem}")


def _is_as_long_as_asked(text: str, grammar: str) -> bool:
    """Return True if a plan is long because the grammar asks for a long answer.

    Other long plans never end: they miss the end of a number or of a pattern, or nest ever deeper.

    Args:
        text: The beginning of JSON, or of a call from within its name.
        grammar: The grammar that it follows.
    """
    text = _NAME.sub("", text)
    before, _, string = _STRING.sub("", text).partition('"')
    longest = max(map(int, _MIN_LENGTH.findall(grammar)), default=0)
    depth = len(re.findall(r"[{\[]", before)) - len(re.findall(r"[}\]]", before))
    is_short = len(string) <= max(longest, len(text) // 4)
    return depth <= _DEEP and is_short and not _LONG_NUMBER.search(before)


def _rest_that_fits(matcher: LLMatcher, plan: list[int]) -> list[int]:
    """Return the shortest rest of a plan that completes the answer; nothing if none does."""
    for done in reversed(range(min(8, len(plan)))):
        beginning = plan[done : done + _PREFIX]
        if matcher.validate_tokens(beginning) == len(beginning):
            rest = plan[done:]
            if matcher.validate_tokens(rest) == len(rest):
                return rest
    return []


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
    return _LETTERS if text.isalpha() else _DIGITS if text.isdigit() else (text or b"\0")[0]
