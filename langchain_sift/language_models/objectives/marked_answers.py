"""Encode conversations for training on their answers: the objective "answer"."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from langchain_core.messages import BaseMessage, HumanMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.conversations import without_reasoning
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.chat_templates.turns import to_turns
from langchain_sift.language_models.objectives.conversation_documents import answers_in
from langchain_sift.ttft.model.reasoning_markers import (
    after_reasoning,
    markers_after,
    reasoning_markers,
)
from langchain_sift.ttft.model.tokens import (
    CHARACTERS_PER_TOKEN,
    EncodedText,
    plain_tokens,
    tokens_after,
)
from langchain_sift.ttft.model.turn_ends import before_answer, end_of_answer, turn_ends

_NEXT = HumanMessage("Thanks")  # after it, the answer before is an earlier one
_TOKENS_OF_TURN = 4  # that a template writes around a text; an estimate


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
        messages: At least one of them is an answer; `conversation_of` checks this.
        arguments: Further arguments for the template.

    Raises:
        ArgumentError: If the template refuses the conversation, or a message holds more than text.
    """
    *earlier, last = answers_in(messages)
    ends = turn_ends(tokenizer).token_ids | {end_of_answer(tokenizer)}
    prompt = render(tokenizer, messages[:last], arguments=arguments)
    (turn,) = without_reasoning(to_turns(messages[last : last + 1]), reasoning_markers(tokenizer))
    answer = turn["content"].strip()
    if not answer:
        raise ArgumentError("its last answer is nothing but reasoning")
    token_ids = render(tokenizer, [*messages[: last + 1], _NEXT], arguments=arguments)
    span = _span(token_ids, prompt, ends)
    if _letters(
        str(tokenizer.decode([token_ids[n] for n in span], skip_special_tokens=True))
    ) != _letters(answer):
        # The template writes a prompt in another way once it is answered, as where it begins
        # the reasoning; or it leaves out answers.
        prompt = after_reasoning(markers_after(tokenizer, prompt), tokenizer, prompt)
        end = end_of_answer(tokenizer)
        written = tokens_after(tokenizer, prompt, before_answer(tokenizer) + answer)
        token_ids = [*prompt, *written, *([] if end is None else [end])]
        span = range(len(prompt), len(token_ids))
    counted = [*span]
    for index in reversed(earlier):
        before = render(tokenizer, messages[:index], arguments=arguments)
        counted[:0] = _span(token_ids[: len(prompt)], before, ends)
    return EncodedText(tuple(token_ids[: span.stop]), tuple(counted))


def encode_beginning(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    longest: int,
    arguments: TemplateArguments | None = None,
) -> EncodedText:
    """Do as `encode_conversation` does, but leave out answers far beyond a number of tokens.

    The time for a conversation grows with the square of its length.

    Args:
        tokenizer: As in `encode_conversation`.
        messages: As in `encode_conversation`.
        longest: The number of tokens. The result has more of them unless the conversation ends.
        arguments: As in `encode_conversation`.

    Raises:
        ArgumentError: As `encode_conversation` does.
    """
    most = longest
    while (stop := _messages_up_to(tokenizer, messages, most)) < len(messages):
        with suppress(ArgumentError):  # these answers may hold nothing but reasoning
            encoded = encode_conversation(tokenizer, messages[:stop], arguments)
            if len(encoded.token_ids) > longest:
                return encoded
        most *= 2  # the template leaves out a part
    return encode_conversation(tokenizer, messages, arguments)


def _messages_up_to(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[BaseMessage], most: int
) -> int:
    """Return how many messages there are up to the first answer beyond a number of tokens.

    The tokens of the template are an estimate. Without such an answer, return the number of all.
    """
    answers, tokens = {*answers_in(messages)}, 0
    for index, message in enumerate(messages):
        text = message.text[: most * CHARACTERS_PER_TOKEN]
        tokens += _TOKENS_OF_TURN + len(plain_tokens(tokenizer, text))
        if tokens > most and index in answers:
            return index + 1
    return len(messages)


def _span(token_ids: Sequence[int], prompt: Sequence[int], ends: Collection[int | None]) -> range:
    """Return the indices of the answer to a prompt, its end included; none without the prompt."""
    first = len(prompt)
    if list(token_ids[:first]) != list(prompt):
        return range(first, first)
    stop = next((n for n in range(first, len(token_ids)) if token_ids[n] in ends), first - 1)
    return range(first, stop + 1)


def _letters(text: str) -> str:
    """Return a text without white space, which tokenizers add and remove."""
    return "".join(text.split())
