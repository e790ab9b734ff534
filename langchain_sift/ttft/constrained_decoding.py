"""Constrain answers to grammars, token by token, with llguidance.

Each constrained row has a matcher of its own, so other rows are neither read nor changed. A row
also has a plan: tokens that complete its answer. After each token the row looks for a new plan. If
none is found in a bounded number of steps, or none fits into the rest of `max_tokens`, the next
token of the old plan replaces the token. So the answer is complete whenever `max_tokens` has room
for the first plan. An answer whose first plan takes too many steps has no plan, and `max_tokens`
may cut it.
"""

from __future__ import annotations

import torch
from llguidance import LLMatcher

from langchain_sift.ttft.grammars import Vocabulary

_RETRY = 32  # tokens between two attempts to find a plan
_MOST_NEW = 256  # tokens of a plan to look for between two of an answer: the batch waits
_MOST_STEPS = 8192  # such tokens in an answer; then it follows the plan that it has


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
        """"length" if the end took the place of a call for which there was no room, or if the
        grammar grew too large on the way."""
        self._vocabulary = vocabulary
        self._matcher = vocabulary.matcher(grammar)
        self._left = max_tokens
        self._end_tokens = end_tokens
        self._steps = _MOST_STEPS
        self._plan = vocabulary.first_plan(grammar, max_tokens, end_tokens).tokens

    def _new_plan(self, matcher: LLMatcher, room: int) -> list[int] | None:
        """Return tokens that complete the answer, found in a bounded number of steps."""
        most = min(room, self._steps, _MOST_NEW)
        plan = self._vocabulary.plan(matcher, most, self._end_tokens, known=self._plan)
        self._steps -= plan.new
        return plan.tokens if plan.complete and len(plan.tokens) - 1 <= room else None

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
        if self._matcher.is_error():
            self.finish_reason = "length"
        self.complete = self._matcher.is_stopped()
        self.complete |= self._matcher.is_accepting() and not self._end_tokens
        return token

    def _replace(self, token: int) -> int:
        """Return the token, or the next of the plan in its place, and update the plan."""
        if self._plan is None and self._left % _RETRY == 0:
            self._plan = self._new_plan(self._matcher, self._left + 1)
        if self._plan is None:  # no plan was found, as in reasoning, whose end is not planned
            return token
        after, new = self._matcher.deep_copy(), None
        if after.consume_token(token):
            new = self._new_plan(after, self._left)
        if new is None:
            self.shortened = True
            token, *new = self._plan
        self._plan = new
        return token
