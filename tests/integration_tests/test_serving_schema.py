"""Send requests generated from the endpoint's description.

None may be a server error, and none may be accepted that the description forbids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus

import hypothesis
import jsonschema
import pytest
import schemathesis
from endpoint import FINETUNE, NAME, Endpoint, fill_collection, make_settings, run_endpoint
from hypothesis import HealthCheck
from hypothesis.internal.cache import LRUCache
from hypothesis.internal.conjecture import providers
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def endpoint(tiny_model_path, embeddings, texts, tmp_path_factory) -> Iterator[Endpoint]:
    store = tmp_path_factory.mktemp("fuzzed-store")
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=store)
    finetune = replace(FINETUNE, max_train_tokens=100)  # requests may ask for long trainings
    settings = make_settings(tiny_model_path, store, max_tokens=2, finetune=finetune)
    with run_endpoint(settings) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def description(endpoint):
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")


@pytest.fixture(autouse=True)
def _same_requests_in_every_run(monkeypatch):
    """Draw no constants from the package's source.

    They change with every change of the package, and with the tests that ran before.
    """
    monkeypatch.setattr(providers.HypothesisProvider, "_local_constants", providers.Constants())
    monkeypatch.setattr(providers, "CONSTANTS_CACHE", LRUCache(1024))


EXAMPLES = 250
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def allowed_bodies(operation):
    """Return whether a body is allowed, as jsonschema reads the description."""
    described = operation.schema.raw_schema
    asked = operation.definition.raw.get("requestBody")
    if asked is None:
        return None
    schema = asked["content"]["application/json"]["schema"]
    whole = {**schema, "components": described["components"]}
    return jsonschema.Draft202012Validator(whole).is_valid


@pytest.mark.parametrize(
    ("method", "path", "mode", "examples"),
    [
        ("POST", CHAT, POSITIVE, EXAMPLES),
        ("POST", CHAT, NEGATIVE, EXAMPLES),
        ("POST", TEXT, POSITIVE, EXAMPLES),
        ("POST", TEXT, NEGATIVE, EXAMPLES),
        ("POST", "/v1/responses", POSITIVE, 100),
        ("POST", "/v1/responses", NEGATIVE, 100),
        ("POST", "/v1/embeddings", POSITIVE, 50),
        ("POST", "/v1/embeddings", NEGATIVE, 50),
        # Requests without a body cannot be invalid.
        ("GET", "/v1/models", POSITIVE, 10),
        ("GET", "/v1/models/{model_id}", POSITIVE, 50),
        ("GET", "/health", POSITIVE, 10),
        ("GET", "/metrics", POSITIVE, 10),
    ],
    ids=str,
)
def test_every_response_follows_the_description(description, method, path, mode, examples):
    statuses: Counter[int] = Counter()
    operation = description[path][method]
    allows = allowed_bodies(operation)

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = NAME  # any other name is just unknown
        response = case.call_and_validate(checks=CHECKS, timeout=60)
        statuses[response.status_code] += 1
        if method == "POST" and response.status_code == HTTPStatus.OK:
            assert allows(case.body), case.body

    check()
    if method == "POST" and mode is POSITIVE:
        assert statuses[200] > examples / 10, statuses
    if method == "POST" and mode is NEGATIVE:
        assert statuses[400] > examples / 2, statuses
