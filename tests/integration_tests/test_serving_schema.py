"""Requests made from the endpoint's own description: whatever they are, no error of the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from endpoint import NAME, Endpoint, put_texts_of_two, running, settings_for
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


@pytest.fixture(scope="module")
def endpoint(tiny_model_path, embeddings, texts, tmp_path_factory) -> Iterator[Endpoint]:
    store = tmp_path_factory.mktemp("fuzzed-store")
    put_texts_of_two(texts, str(tiny_model_path), embeddings.mean, folder=store)
    with running(settings_for(tiny_model_path, store, max_tokens=2)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def described(endpoint):
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("method", "path", "mode", "examples"),
    [
        ("POST", CHAT, POSITIVE, 500),
        ("POST", CHAT, NEGATIVE, 500),
        ("POST", TEXT, POSITIVE, 500),
        ("POST", TEXT, NEGATIVE, 500),
        # Without a body there is nothing that could be wrong.
        ("GET", "/v1/models", POSITIVE, 10),
        ("GET", "/v1/models/{model_id}", POSITIVE, 50),
        ("GET", "/health", POSITIVE, 10),
        ("GET", "/metrics", POSITIVE, 10),
    ],
    ids=str,
)
def test_every_answer_is_one_that_is_described(described, method, path, mode, examples):
    statuses: Counter[int] = Counter()

    # The same requests every time: what new ones find is for whoever looks for it.
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=described[path][method].as_strategy(generation_mode=mode))
    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = NAME  # of any other it is told that there is none, and no more
        response = case.call_and_validate(checks=CHECKS, timeout=60)
        statuses[response.status_code] += 1

    check()
    if method == "POST" and mode is POSITIVE:
        assert statuses[200] > examples / 10, statuses
    if method == "POST" and mode is NEGATIVE:
        assert statuses[400] > examples / 2, statuses
