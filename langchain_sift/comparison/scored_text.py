"""Tokenize a task, with documents before it or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from langchain_sift.comparison.tasks import Task
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.tokens import beginning, plain_tokens

SEPARATOR = "\n\n"
"""Separator between the documents in a context, and between them and the prompt."""

_MESSAGE = "MESSAGE-OF-THE-USER"


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The token ids of a task, the same for every method."""

    start: tuple[int, ...]
    """The tokens at the beginning of a text, or of the user's turn in a chat."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    """Empty if no text is scored."""

    target_bytes: int
    """Length of the target in UTF-8."""

    choices: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(
        cls, task: Task, tokenizer: PreTrainedTokenizerBase, window: int, *, answer: int = 0
    ) -> ScoredText:
        """Tokenize a task, and leave at least a quarter of the model's context for documents.

        The target is cut to half of the context length. The task's context loses its beginning if
        it is longer than a quarter. The chat template of a model wraps a question as the user's
        message.

        Args:
            task: The task to tokenize.
            tokenizer: The model's tokenizer.
            window: Context length of the model, in tokens.
            answer: Number of tokens to leave for an answer.

        Raises:
            ArgumentError: If no token is left to score, or the question is too long.
        """
        start, after = _frame(tokenizer) if task.generates else (beginning(tokenizer), [])
        context = [*plain_tokens(tokenizer, task.context), *after]
        whole = plain_tokens(tokenizer, task.target or "")
        if not start and not context:
            # A token without any before it cannot be predicted.
            start, whole = whole[:1], whole[1:]
        target = whole[: window // 2]
        if not target and not task.generates:
            raise ArgumentError("the prompt is too short: there is no token to score")
        if task.generates and len(start) + len(context) + answer > window // 2:
            raise ArgumentError(
                f"the question is too long: its {len(context)} tokens and an answer of {answer} "
                f"take more than half of the model's context of {window}"
            )
        scored = task.target if len(target) == len(whole) else tokenizer.decode(target)
        return cls(
            start=tuple(start),
            context=tuple(context if task.generates else context[-(window // 4) :]),
            target=tuple(target),
            target_bytes=len(str(scored or "").encode("utf-8", "surrogatepass")),
            choices=tuple(
                tuple(plain_tokens(tokenizer, choice)[: window // 4]) for choice in task.choices
            ),
        )

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text that is scored."""
        return max(map(len, (self.target, *self.choices)))

    def pairs(self, context: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Return the pairs for the engine to score: the target, if any, then the choices."""
        targets = [*([self.target] if self.target else []), *self.choices]
        return [(context, target) for target in targets]

    def without_documents(self) -> list[int]:
        """Return the context without documents."""
        return [*self.start, *self.context]

    def with_documents(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        window: int,
        max_length: int,
        answer: int = 0,
    ) -> tuple[list[int], list[int]]:
        """Return the context with documents before it, and the indices of those that fit.

        Args:
            texts: Documents, most informative first.
            tokenizer: The model's tokenizer.
            window: Context length of the model, in tokens.
            max_length: Maximum number of tokens of a document; the rest is cut, as in training.
            answer: Number of tokens to leave for an answer.
        """
        separator = plain_tokens(tokenizer, SEPARATOR)
        room = window - len(self.start) - len(self.context) - max(answer, self.longest)
        before: list[int] = []
        fitting: list[int] = []
        for index, text in enumerate(texts):
            block = plain_tokens(tokenizer, text)[:max_length] + separator
            if len(before) + len(block) <= room:
                before += block
                fitting.append(index)
        return [*self.start, *before, *self.context], fitting


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the tokens before and after a user's message; without a template, those of a text."""
    if not tokenizer.chat_template:
        return beginning(tokenizer), []
    rendered = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": _MESSAGE}],
            tokenize=False,
            add_generation_prompt=True,
        )
    )
    before, _, after = rendered.partition(_MESSAGE)
    return [
        tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for part in (before, after)
    ]  # type: ignore[return-value]
