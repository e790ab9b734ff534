"""Encode conversations for training on their answers: the objective "answer"."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.language_models.chat_templates import render
from langchain_sift.language_models.conversation_documents import answers_in
from langchain_sift.language_models.conversations import without_reasoning
from langchain_sift.language_models.template_arguments import TemplateArguments
from langchain_sift.language_models.turns import to_turns
from langchain_sift.ttft.model.reasoning_markers import (
    after_reasoning,
    markers_after,
    reasoning_markers,
)
from langchain_sift.ttft.model.tokens import EncodedText, tokens_after
from langchain_sift.ttft.model.turn_ends import before_answer, end_of_answer, turn_ends


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    arguments: TemplateArguments | None = None,
) -> EncodedText:
    """Return the tokens of a conversation up to its last answer; those of the answers count.

    The tokens before the last answer are those of the prompt that asks for it. Each answer counts
    with the token that ends it, without reasoning. An earlier answer counts unless the template
    writes it in another way than in the prompt that asked for it.

    Only the template writes control tokens: their names in messages are text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: At least one of them is an answer, as `conversation_of` sees to.
        arguments: Further arguments for the template.

    Raises:
        ArgumentError: If the template refuses the conversation, or a message holds more than text.
    """
    *earlier, last = answers_in(messages)
    prompt = render(tokenizer, messages[:last], arguments=arguments)
    prompt = after_reasoning(markers_after(tokenizer, prompt), tokenizer, prompt)
    (turn,) = without_reasoning(to_turns(messages[last : last + 1]), reasoning_markers(tokenizer))
    end = end_of_answer(tokenizer)
    text = before_answer(tokenizer) + turn["content"].strip()
    answer = tokens_after(tokenizer, prompt, text)
    token_ids = [*prompt, *answer, *([] if end is None else [end])]
    counted = list(range(len(prompt), len(token_ids)))
    ends = turn_ends(tokenizer).token_ids | {end}
    for index in reversed(earlier):
        before = render(tokenizer, messages[:index], arguments=arguments)
        following = range(len(before), len(prompt))
        stop = next((n for n in following if token_ids[n] in ends), None)
        if stop is not None and token_ids[: len(before)] == before:
            counted[:0] = range(len(before), stop + 1)
    return EncodedText(tuple(token_ids), tuple(counted))
