"""Fit documents into a prompt, the most informative last; all that builds prompts uses this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue
from transformers import PreTrainedTokenizerBase

from langchain_sift.language_models.modes import distinct, prompt_with_context
from langchain_sift.ttft.model.tokens import cut_text, plain_tokens
from langchain_sift.ttft.texts import well_formed

SEPARATOR = "\n\n"
"""Separator between documents."""

# An answer may take the rest of the context, but documents need not leave it more room than this.
_SHARE_FOR_ANSWER = 4

Render = Callable[[str], list[int]]
"""Return the token ids of a prompt with a context; "" is a prompt without documents."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """The token ids of a prompt, and what became of its documents."""

    token_ids: list[int]

    context: str = ""
    """The documents in the prompt, as one text."""

    used: tuple[int, ...] = ()
    """Indices of the documents in the prompt, most informative first; each text is in it once."""

    left_out: tuple[int, ...] = ()
    """Indices of the documents for which there was no room."""

    cut: tuple[int, ...] = ()
    """Indices of those in the prompt whose end was cut off."""

    def record(self, documents: Sequence[Document]) -> dict[str, object]:
        """Return the ids of the documents, for the metadata of an answer."""
        return {
            "context": [documents[index].id for index in self.used],
            "context_left_out": [documents[index].id for index in self.left_out],
            "context_cut": [documents[index].id for index in self.cut],
        }


def join_documents(texts: Iterable[str]) -> str:
    """Return the context with documents: the most informative last, next to the question.

    Language models use the beginning and the end of a long context best (arXiv 2307.03172). The end
    is better for SmolLM2 and makes no difference to Gemma 3: examples/evidence/real_models.md.

    Args:
        texts: The documents, most informative first.
    """
    return SEPARATOR.join(reversed([*texts]))


def fit_documents(
    texts: Sequence[str],
    render: Render,
    tokenizer: PreTrainedTokenizerBase,
    *,
    room: int,
    max_length: int,
) -> FittedPrompt:
    """Return the prompt with as many documents as fit, each text once, the most informative last.

    A document that does not fit is left out, and a shorter one after it may still fit.

    Args:
        texts: The documents, most informative first.
        render: Renders the prompt.
        tokenizer: The model's tokenizer.
        room: Maximum number of tokens of the prompt. Without documents it may be longer.
        max_length: Number of tokens at which a document is cut, as in training.
    """
    distinct_indices = distinct(texts)
    separator = len(plain_tokens(tokenizer, SEPARATOR))
    left = room - len(render(SEPARATOR)) if texts else 0
    parts: dict[int, str] = {}
    for index in distinct_indices:
        part = cut_text(tokenizer, texts[index], max_length)
        length = len(plain_tokens(tokenizer, part)) + separator
        if length <= left:
            left -= length
            parts[index] = part
    token_ids = render(join_documents(parts.values()))
    while parts and len(token_ids) > room:  # the seams between documents may take tokens
        parts.popitem()
        token_ids = render(join_documents(parts.values()))
    return FittedPrompt(
        token_ids,
        join_documents(parts.values()),
        used=tuple(parts),
        left_out=tuple(index for index in distinct_indices if index not in parts),
        cut=tuple(index for index, part in parts.items() if part != well_formed(texts[index])),
    )


def room_for_prompt(context_length: int, max_tokens: int) -> int:
    """Return the number of tokens that a prompt with documents may have.

    Args:
        context_length: That of the model.
        max_tokens: Maximum number of tokens of the answer. At most a quarter of the context is
            kept free for it.
    """
    return context_length - min(max_tokens, context_length // _SHARE_FOR_ANSWER)


def fill_context(value: PromptValue, context: str, *, is_chat: bool) -> PromptValue:
    """Return a prompt with documents, as a chat model reads it or as a text model does."""
    if is_chat:
        return ChatPromptValue(messages=add_context(value.to_messages(), context))
    return StringPromptValue(text=prompt_with_context(value.to_string(), context))


def add_context(messages: Sequence[BaseMessage], context: str) -> list[BaseMessage]:
    """Put documents before the text of the last human message that has one."""
    if not context:
        return list(messages)
    human = [n for n, message in enumerate(messages) if isinstance(message, HumanMessage)]
    with_text = [n for n in human if messages[n].text]
    index = (with_text or human or [len(messages) - 1])[-1]
    last = messages[index]
    question = last.model_copy(update={"content": _content_with_context(last.content, context)})
    return [*messages[:index], question, *messages[index + 1 :]]


def _content_with_context(
    content: str | list[str | dict[str, object]], context: str
) -> str | list[str | dict[str, object]]:
    """Put documents before the first text of a message; its other blocks stay as they are."""
    if isinstance(content, str):
        return prompt_with_context(content, context)
    for index, block in enumerate(content):
        if isinstance(block, str):
            text: str | dict[str, object] = prompt_with_context(block, context)
        elif block.get("type") == "text":
            text = {**block, "text": prompt_with_context(str(block.get("text") or ""), context)}
        else:
            continue
        return [*content[:index], text, *content[index + 1 :]]
    return [prompt_with_context("", context).rstrip(), *content]
