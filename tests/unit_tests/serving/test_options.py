"""Validate the options of a request."""

from __future__ import annotations

import dataclasses

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import FineTuneConfig, SIFTRetriever
from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.call_settings import FINETUNE_SETTINGS
from langchain_sift.serving.options import (
    FineTuneOptions,
    LearningOptions,
    RetrieverOptions,
    TrainingLimits,
    TTFTOptions,
)
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.requests import CompletionRequest
from langchain_sift.serving.settings import ServingSettings


@pytest.fixture
def retriever():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
    return SIFTRetriever(vectorstore=store, k=3)


FIELDS_OF_CONFIG = {field.name for field in dataclasses.fields(FineTuneConfig)}


def test_the_options_are_the_settings_of_retriever_and_model():
    assert {*RetrieverOptions.model_fields} <= {*SIFTRetriever.model_fields}
    assert {*FineTuneOptions.model_fields} == {*FINETUNE_SETTINGS}
    assert {*FineTuneOptions.model_fields} <= FIELDS_OF_CONFIG


def test_each_mode_has_the_documents_that_it_was_calibrated_with(retriever):
    """Requests that train have a selection of their own, whatever the server's mode."""
    tuned = CalibratedSelection(noise_variance=0.3, k=7, fetch_k=50, kernel="linear")
    for mode in ("rag", "ttft"):
        settings = ServingSettings("model", "store", mode=mode, k=3, training_selection=tuned)
        for options, k in (
            ({}, 3 if mode == "rag" else 7),
            ({"mode": "rag"}, 3),
            *(({"mode": each}, 7) for each in ("ttft", "both", "auto")),
            ({"mode": "ttft", "k": 2}, 2),
            ({"session": "new"}, 7),
            ({"session": "ttft-id", "mode": "both"}, 3),  # only shown
        ):
            body = CompletionRequest(model="model", prompt="Hello", ttft=options)
            found = RequestSettings.of(body, settings, retriever).retriever
            assert found.k == k
            assert found.noise_variance == (None if k == 3 else 0.3)
        learned = RequestSettings.of_learning(LearningOptions(), settings, retriever)
        assert (learned.retriever.k, learned.retriever.fetch_k) == (7, 50)
    with pytest.raises(ArgumentError, match=r"modes must be a ModeTable.*got a dict"):
        ServingSettings("model", "store", mode="auto", modes={"bins": []})
    refused = "training_selection must be a CalibratedSelection, got a dict"
    with pytest.raises(ArgumentError, match=refused):
        ServingSettings("model", "store", training_selection={"k": 7})
    with pytest.raises(ArgumentError, match="k is 7, above its ceiling 5"):
        ServingSettings("model", "store", k=3, training_selection=tuned, ceilings={"k": 5})


@pytest.mark.parametrize(
    ("tuned", "options", "differ"),
    [
        (None, {}, False),
        (CalibratedSelection(0.3, 3, 50, "linear"), {}, False),
        (CalibratedSelection(0.3, 7, 50, "linear"), {}, True),
        (CalibratedSelection(0.3, 7, 50, "linear"), {"k": 2}, False),
        (CalibratedSelection(0.4, 7, 50, "linear"), {"k": 2}, True),
    ],
)
def test_auto_retrieves_again_for_rag_only_what_differs(retriever, tuned, options, differ):
    """`serve --settings` gives both the same selection if only one was calibrated."""
    settings = ServingSettings(
        "model",
        "store",
        mode="auto",
        k=3,
        fetch_k=50,
        kernel="linear",
        noise_variance=0.3,
        training_selection=tuned,
    )
    body = CompletionRequest(model="model", prompt="Hello", ttft=options)
    showing = RequestSettings.of(body, settings, retriever).showing
    assert (showing is not None) == differ
    if differ:
        assert showing.k == options.get("k", 3)


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
def test_a_request_can_only_lower_a_limit(  # noqa: PLR0917
    name, server, ceiling, request_limit, expected, retriever
):
    finetune = FineTuneConfig(**{name: server})
    ceilings = {} if ceiling is None else {name: ceiling, "timeout": 30}
    settings = ServingSettings("model", "store", finetune=finetune, ceilings=ceilings)
    options = TTFTOptions.model_validate({name: request_limit})
    body = CompletionRequest(model="model", prompt="Hello", ttft=options)
    settings_of_request = RequestSettings.of(body, settings, retriever)
    call = settings_of_request.call_arguments({}, number=0, reservation=None, started=0.0)
    assert call.get(name) == expected
    assert settings_of_request.timeout == (settings.timeout if ceiling is None else 30)
