"""Refuse an answer for which `max_tokens` or the context has no room."""

from __future__ import annotations

from langchain_sift.errors import ArgumentError, PromptTooLong
from langchain_sift.ttft.grammars import vocabulary_of
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.turn_ends import answer_ends
from langchain_sift.ttft.requests import GenerationTask


def check_room(language_model: LanguageModel, task: GenerationTask, max_tokens: int) -> None:
    """Check that there is room for the shortest answer that follows the grammar of a task.

    The plan of the answer, for which this may take a second, is kept for the answer.

    Args:
        language_model: The model.
        task: The task. Its grammar may be None, and its `max_tokens` larger than the context.
        max_tokens: Number of tokens for which there is room.

    Raises:
        PromptTooLong: If a shorter prompt would leave enough room.
        ArgumentError: If `max_tokens` of the task is too small, or the grammar is invalid.
    """
    if task.grammar is None:
        return
    tokenizer, reasoning = language_model.tokenizer, task.config.reasoning
    ends = answer_ends(language_model.model, tokenizer)
    plan = vocabulary_of(tokenizer).first_plan(task.grammar, max_tokens, ends)
    begun = reasoning if reasoning is not None and reasoning.begun else None
    if begun is not None and begun.closing not in tokenizer.added_tokens_encoder:
        return  # reasoning that no token ends may take any number of tokens
    if plan.too_long and max_tokens < task.config.max_tokens:
        raise PromptTooLong(
            f"the prompt is too long: it leaves room for {max_tokens} tokens, fewer than the "
            "shortest answer in the given format takes"
        )
    if plan.too_long:
        raise ArgumentError(
            f"max_tokens is {max_tokens}, fewer than the shortest answer in the given format "
            "takes: raise it, or ask for less (minLength, minItems, required)"
        )
