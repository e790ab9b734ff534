"""Add the documents to train on to a request, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import EncodedText, tokenize_documents, training_tokens
from langchain_sift.ttft.requests import Request
from langchain_sift.ttft.texts import check_texts
from langchain_sift.ttft.training.gradient_check import check_gradients


def check_material(texts: Sequence[str | EncodedText], config: FineTuneConfig) -> None:
    """Check that texts fit the objective.

    Raises:
        ArgumentError: If they are no texts, or not encoded for the objective "answer".
    """
    check_texts("texts", texts, encoded=EncodedText)
    if config.objective == "answer" and any(isinstance(text, str) for text in texts):
        raise ArgumentError(
            "the objective 'answer' takes texts whose answers are marked: let a model read the "
            "documents, as learn(documents) does"
        )


def with_documents(
    request: Request, texts: Sequence[str | EncodedText], language_model: LanguageModel
) -> Request:
    """Return a request with the texts as its documents.

    Args:
        request: A request without documents.
        texts: Documents to train on, most informative first, with repeats.
        language_model: The model.

    Raises:
        ArgumentError: If a token is not in the model's vocabulary, or no gradient passes the
            model.
    """
    config = request.config
    documents = tokenize_documents(
        language_model.tokenizer,
        texts,
        max_length=min(config.max_length, language_model.context_length),
        max_documents=config.max_documents,
    )
    if documents:
        check_gradients(language_model, config.target_modules)
    for document in documents:
        language_model.check_token_ids(document.token_ids)
    # Tokenization ends with the last document of `max_documents`.
    is_full = len(documents) == config.max_documents
    examined = documents[-1].index + 1 if is_full else len(texts)
    skipped = set(range(examined)).difference(document.index for document in documents)
    return replace(
        request,
        documents=documents,
        training_tokens=training_tokens([len(d.token_ids) for d in documents], config),
        skipped=tuple(sorted(skipped)),
        omitted=len(texts) - examined,
    )
