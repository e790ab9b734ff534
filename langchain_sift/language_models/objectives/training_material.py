"""Turn documents into what a model learns from, by the objective of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.context import SEPARATOR, Render, add_context, fit_documents
from langchain_sift.language_models.objectives.conversation_documents import (
    conversation_of,
    named,
    passages_of,
)
from langchain_sift.language_models.objectives.marked_answers import (
    encode_beginning,
    encode_conversation,
)
from langchain_sift.language_models.objectives.teaching import DocumentTeaching
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import EncodedText
from langchain_sift.ttft.training.lessons import Teaching

_TOKENS_OF_SEAMS = 8  # between passages, a text may have a few tokens more than its parts


@dataclass(frozen=True, slots=True)
class Material:
    """The material of a training, for `Engine.request` and `Engine.with_texts`."""

    texts: Sequence[str | EncodedText]
    """The documents, in order: with the objective "answer", with marked answers."""

    teaching: Teaching | None = None
    """Plans the lessons of the objective "distill"."""


def training_material(
    documents: Sequence[Document],
    config: FineTuneConfig,
    language_model: LanguageModel,
    arguments: TemplateArguments | None = None,
    prompt: Render | None = None,
) -> Material:
    """Return what a model learns from documents, by the objective of the training.

    Args:
        documents: The documents, most informative first.
        config: The settings of the training.
        language_model: The model.
        arguments: Further arguments for its chat template.
        prompt: Renders the prompt that is to be answered, with documents. None means none.

    Raises:
        ArgumentError: If a document does not fit the objective; the message names it. If the
            objective needs a chat template, and there is none.
    """
    if not documents:
        return Material(())
    if config.objective != "answer":
        texts = [document.page_content for document in documents]
        if config.objective == "text":
            return Material(texts)
        return Material(texts, DocumentTeaching(texts, config, language_model, arguments, prompt))
    return Material(_with_marked_answers(documents, config, language_model, arguments))


def _with_marked_answers(
    documents: Sequence[Document],
    config: FineTuneConfig,
    language_model: LanguageModel,
    arguments: TemplateArguments | None,
) -> list[EncodedText]:
    if documents and not language_model.tokenizer.chat_template:
        raise ArgumentError(
            "the model has no chat template, which objective='answer' needs: use a chat model, "
            "give it a template (in Python tokenizer.chat_template, for the command learn "
            "--chat-template, or chat_template.jinja in the model's folder), or train with "
            "objective='text'"
        )
    longest = min(config.max_length, language_model.context_length)
    texts = []
    for index, document in enumerate(documents[: config.max_documents]):
        messages = conversation_of(document, index)
        try:
            if passages := passages_of(document):
                tokenizer = language_model.tokenizer
                messages = _with_passages(messages, passages, tokenizer, longest, arguments)
            text = encode_beginning(language_model.tokenizer, messages, longest, arguments)
        except ArgumentError as error:
            raise ArgumentError(f"{named(document, index)} cannot be learned: {error}") from error
        if text.counted[0] >= longest:
            cure = "raise max_length, or shorten"
            if longest == language_model.context_length:
                cure = "the model's context is no longer: shorten"
            raise ArgumentError(
                f"{named(document, index)} has no answer within its first {longest} tokens: {cure} "
                "its question"
            )
        texts.append(text)
    # Documents beyond `max_documents` are counted, and never examined.
    return [*texts, *[EncodedText((), ())] * (len(documents) - len(texts))]


def _with_passages(
    messages: Sequence[BaseMessage],
    passages: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    arguments: TemplateArguments | None,
) -> list[BaseMessage]:
    """Put the passages of a question before it in their order, as many as fit with the answer.

    The last ones count most, as those of RAG do. One that does not fit alone is cut.
    """
    asked = messages[:-1]

    def prompt(context: str) -> list[int]:
        return render(tokenizer, add_context(asked, context), arguments=arguments)

    whole = encode_conversation(tokenizer, messages, arguments).token_ids
    room = longest - (len(whole) - len(prompt("")))
    fitted = fit_documents(
        passages[::-1],
        prompt,
        tokenizer,
        room=room,
        max_length=max(1, room - len(prompt(SEPARATOR)) - _TOKENS_OF_SEAMS),
    )
    return [*add_context(asked, fitted.context), messages[-1]]
