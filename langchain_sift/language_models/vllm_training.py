"""Make the request that trains an adapter here, for an answer on a vLLM server."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.prompt_values import PromptValue

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.context import fill_context
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.retrieval.scores import too_little_to_gain
from langchain_sift.ttft import Request


def check_has_not_learned(model: TestTimeFineTuning) -> None:
    """Refuse a model whose adapter the chain would not use.

    Raises:
        ArgumentError: If the model has learned.
    """
    if model.adapter is not None:
        raise ArgumentError(
            "the model has learned, and this chain would not use it: load its adapter into the "
            "server (`with adapters.loaded(model.adapter) as name`), and answer with model=name"
        )


def training_request(
    model: TestTimeFineTuning, documents: Sequence[Document], value: PromptValue
) -> Request:
    """Return the request that trains an adapter as a call of the model does.

    Args:
        model: The model.
        documents: The documents to train on.
        value: The prompt that the server answers, which the objective "distill" teaches.
    """
    engine, config = model.engine, model.finetune
    fill = functools.partial(fill_context, value, is_chat=isinstance(model, BaseChatModel))
    material = training_material(
        documents, config, engine.language_model, model._template(), model._rendering(fill)
    )
    reason = too_little_to_gain(documents, config.min_gain)
    request = engine.request(None, config=config, keep_adapter=True)
    return engine.with_texts(
        request, material.texts, teaching=material.teaching, skip_reason=reason
    )
