"""Validate the options of a request."""

from __future__ import annotations

import dataclasses

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import FineTuneConfig, SIFTRetriever
from langchain_sift.language_models.call_settings import FINETUNE_SETTINGS
from langchain_sift.serving.options import (
    FineTuneOptions,
    RetrieverOptions,
    TrainingLimits,
    TTFTOptions,
)
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.requests import CompletionRequest
from langchain_sift.serving.settings import ServingSettings

FIELDS_OF_CONFIG = {field.name for field in dataclasses.fields(FineTuneConfig)}


def test_the_options_are_the_settings_of_retriever_and_model():
    assert {*RetrieverOptions.model_fields} <= {*SIFTRetriever.model_fields}
    assert {*FineTuneOptions.model_fields} == {*FINETUNE_SETTINGS}
    assert {*FineTuneOptions.model_fields} <= FIELDS_OF_CONFIG


@pytest.mark.parametrize("name", TrainingLimits.model_fields)
@pytest.mark.parametrize(
    ("server", "ceiling", "request_limit", "expected"),
    [
        (None, None, None, None),
        (40, None, None, 40),
        (None, None, 30, 30),
        (40, None, 30, 30),
        (40, None, 50, 40),
        (None, 20, None, 20),
        (40, 20, None, 20),
        (40, 60, None, 40),
        (40, 20.0, 10, 10),
    ],
)
def test_a_request_can_only_lower_a_limit(name, server, ceiling, request_limit, expected):
    finetune = FineTuneConfig(**{name: server})
    ceilings = {} if ceiling is None else {name: ceiling, "timeout": 30}
    settings = ServingSettings("model", "store", finetune=finetune, ceilings=ceilings)
    options = TTFTOptions.model_validate({name: request_limit})
    retriever = SIFTRetriever(vectorstore=InMemoryVectorStore(DeterministicFakeEmbedding(size=4)))
    body = CompletionRequest(model="model", prompt="Hello", ttft=options)
    settings_of_request = RequestSettings.of(body, settings, retriever)
    call = settings_of_request.call_arguments({}, number=0, reservation=None, timeout=1.0)
    assert call.get(name) == expected
    assert settings_of_request.timeout == (settings.timeout if ceiling is None else 30)
