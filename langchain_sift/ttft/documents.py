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
from langchain_sift.ttft.training.lessons import Teaching


def check_material(
    texts: Sequence[str | EncodedText], config: FineTuneConfig, *, taught: bool
) -> None:
    """Check that texts fit the objective.

    Args:
        texts: The documents.
        config: The settings of the training.
        taught: True if there are plans for a teacher.

    Raises:
        ArgumentError: If they are no texts, not encoded for the objective "answer", or without
            a teacher for the objective "distill".
    """
    check_texts("texts", texts, encoded=EncodedText)
    is_plain = any(isinstance(text, str) for text in texts)
    if is_plain and (
        config.objective == "answer" or (config.objective == "distill" and not taught)
    ):
        raise ArgumentError(
            f"the objective {config.objective!r} takes more than plain texts: let a model read the "
            "documents, as learn(documents) does"
        )


def with_documents(
    request: Request,
    texts: Sequence[str | EncodedText],
    language_model: LanguageModel,
    teaching: Teaching | None,
) -> Request:
    """Return a request with the texts as its documents.

    Args:
        request: A request without documents.
        texts: Documents to train on, most informative first, with repeats.
        language_model: The model.
        teaching: Plans the lessons about the documents. None means that there is no teacher.

    Raises:
        ArgumentError: If a token is not in the model's vocabulary, or no gradient passes the
            model.
    """
    config = request.config
    longest = min(config.max_length, language_model.context_length)
    if teaching is not None:
        longest = min(longest, teaching.max_length)
    documents = tokenize_documents(
        language_model.tokenizer,
        texts,
        max_length=longest,
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
    lessons = () if teaching is None else teaching.lessons(documents)
    for lesson in lessons:
        language_model.check_token_ids([*lesson.teacher.around(lesson.ask), *lesson.student.before])
    taught = [lesson.repeats * lesson.tokens for lesson in lessons]
    lengths = taught or [len(document.token_ids) for document in documents]
    return replace(
        request,
        documents=documents,
        lessons=lessons,
        training_tokens=training_tokens(lengths, replace(config, max_documents=None)),
        skipped=tuple(sorted(skipped)),
        omitted=len(texts) - examined,
    )
