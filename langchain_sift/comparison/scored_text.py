"""Tokenize a task, with documents before it or without."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import HumanMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.comparison.tasks import Task
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.context import (
    SEPARATOR,
    FittedPrompt,
    add_context,
    fit_documents,
    room_for_prompt,
)
from langchain_sift.language_models.modes import prompt_with_context
from langchain_sift.ttft.model.reasoning_markers import after_reasoning, markers_after
from langchain_sift.ttft.model.tokens import beginning, plain_tokens, text_tokens, tokens_after
from langchain_sift.ttft.model.turn_ends import before_answer


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The token ids of a task, the same for every method."""

    task: Task

    start: tuple[int, ...]
    """The tokens at the beginning of a text. Empty if an answer is generated."""

    context: tuple[int, ...]
    """The tokens before the target. If an answer is generated, the whole prompt."""

    target: tuple[int, ...]
    """Empty if no text is scored."""

    target_bytes: int
    """Length of the target in UTF-8."""

    choices: tuple[tuple[int, ...], ...] = ()

    choice_lengths: tuple[int, ...] = ()
    """Number of characters of each choice that is scored, at least 1."""

    closing: tuple[int, ...] = ()
    """The tokens between the context and what is scored: they close the reasoning that a prompt
    begins."""

    arguments: TemplateArguments | None = None
    """Arguments for the chat template."""

    @classmethod
    def of(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        *,
        answer: int = 0,
        arguments: TemplateArguments | None = None,
    ) -> ScoredText:
        """Tokenize a task, and leave at least a quarter of the model's context for documents.

        The target is cut to half of the context length. The task's context loses its beginning if
        it is longer than a quarter. The prompt of a question is that of the models, which for a
        model with a chat template is the question as the user's message.

        Args:
            task: The task to tokenize.
            tokenizer: The model's tokenizer.
            window: Context length of the model, in tokens.
            answer: Number of tokens to leave for an answer.
            arguments: Arguments for the chat template.

        Raises:
            ArgumentError: If no token is left to score, or the question or the answer is too long.
        """
        start: list[int] = []
        if task.generates:
            context = _prompt(task, tokenizer, "", arguments)
        else:
            start = beginning(tokenizer)
            context = plain_tokens(tokenizer, task.context)[-(window // 4) :]
        if task.generates and len(context) + answer > window // 2:
            is_long = len(context) > window // 2
            cause = "the question is too long" if is_long else "max_tokens is too large"
            raise ArgumentError(
                f"{cause}: the {len(context)} tokens of the question and an answer of {answer} "
                f"take more than half of the model's context of {window}"
            )
        before = _answered(tokenizer, context) if task.generates else context
        scored = _answer(task, tokenizer, task.target or "")
        whole = tokens_after(tokenizer, before, scored)
        if not start and not context:
            # A token without any before it cannot be predicted.
            start, whole = whole[:1], whole[1:]
        target = whole[: window // 2]
        if not target and not task.generates:
            raise ArgumentError("the prompt is too short: there is no token to score")
        if len(target) < len(whole):
            scored = str(tokenizer.decode(target))
        choices = [
            tokens_after(tokenizer, before, _answer(task, tokenizer, choice))
            for choice in task.choices
        ]
        return cls(
            task,
            start=tuple(start),
            context=tuple(context),
            target=tuple(target),
            target_bytes=len(scored.encode("utf-8", "surrogatepass")),
            choices=tuple(tuple(choice[: window // 4]) for choice in choices),
            choice_lengths=tuple(
                _length(_bare(task, tokenizer, text), len(choice), window // 4)
                for text, choice in zip(task.choices, choices, strict=True)
            ),
            closing=tuple(before[len(context) :]),
            arguments=arguments,
        )

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text that is scored, with those that close reasoning."""
        return len(self.closing) + max(map(len, (self.target, *self.choices)))

    def pairs(self, context: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Return the pairs for the engine to score: the target, if any, then the choices."""
        targets = [*([self.target] if self.target else []), *self.choices]
        return [([*context, *self.closing], target) for target in targets]

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
    ) -> FittedPrompt:
        """Return the context with as many documents before it as fit.

        Args:
            texts: Documents, most informative first.
            tokenizer: The model's tokenizer.
            window: Context length of the model, in tokens.
            max_length: Maximum number of tokens of a document; the rest is cut, as in training.
            answer: Number of tokens to leave for an answer.
        """
        render_with = functools.partial(self.prompt, tokenizer)
        room = min(room_for_prompt(window, answer), window - self.longest)
        return fit_documents(texts, render_with, tokenizer, room=room, max_length=max_length)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, documents: str) -> list[int]:
        """Return the context with documents before it; "" means none."""
        if self.task.generates:
            return _prompt(self.task, tokenizer, documents, self.arguments)
        before = plain_tokens(tokenizer, documents + SEPARATOR) if documents else []
        return [*self.start, *before, *self.context]


def _prompt(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    documents: str,
    arguments: TemplateArguments | None,
) -> list[int]:
    """Return the prompt of a question, as the models build it."""
    if not tokenizer.chat_template:
        return text_tokens(tokenizer, prompt_with_context(task.context, documents))
    messages = add_context([HumanMessage(task.query)], documents)
    return render(tokenizer, messages, arguments=arguments)


def _length(choice: str, tokens: int, most: int) -> int:
    """Return the number of characters of a choice up to its cut."""
    return max(1, len(choice) if tokens <= most else len(choice) * most // tokens)


def _bare(task: Task, tokenizer: PreTrainedTokenizerBase, choice: str) -> str:
    """Return a choice as it is scored, without what separates it from the prompt."""
    return choice.lstrip() if task.generates and tokenizer.chat_template else choice[1:]


def _answered(tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> list[int]:
    """Return a prompt as it is before an answer: the reasoning that it begins is closed."""
    if not tokenizer.chat_template:
        return prompt
    return after_reasoning(markers_after(tokenizer, prompt), tokenizer, prompt)


def _answer(task: Task, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return an answer as it follows the prompt: after a chat template, as that writes it."""
    if task.generates and tokenizer.chat_template and text.strip():
        return before_answer(tokenizer) + text.lstrip()
    return text
