"""Hold a model that writes noise to random schemas, and let `jsonschema` judge its answers."""

from __future__ import annotations

import copy
import json
import random

import jsonschema
import pytest
from langchain_core.runnables import RunnableParallel
from random_schemas import random_schema

from langchain_sift import ChatTestTimeFineTuned

SCHEMAS = [random_schema(random.Random(seed)) for seed in range(200)]
BATCH = 8


@pytest.fixture(scope="module")
def chat(tiny_model, tiny_tokenizer):
    model = copy.deepcopy(tiny_model)
    model.config.max_position_embeddings = 16384
    return ChatTestTimeFineTuned(model=model, tokenizer=tiny_tokenizer, max_tokens=260)


def check(text, schema):
    value = json.loads(text)
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)
    assert json.dumps(value)


@pytest.mark.parametrize("first", range(0, len(SCHEMAS), BATCH))
def test_every_answer_follows_its_schema(chat, first):
    sampling = {"temperature": 1.5, "seed": first} if first % (2 * BATCH) else {}
    schemas = SCHEMAS[first : first + BATCH]
    # In one batch of the engine, each row with a schema of its own.
    models = {
        str(number): chat.bind(
            response_format={"type": "json_object", "schema": schema}, **sampling
        )
        for number, schema in enumerate(schemas)
    }
    answers = RunnableParallel(models).invoke("Hello")
    for number, schema in enumerate(schemas):
        check(answers[str(number)].text, schema)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("schema", SCHEMAS[::20])
def test_every_object_follows_its_schema(chat, schema, method):
    value = chat.with_structured_output({"description": "x", **schema}, method=method).invoke("Hi")
    check(json.dumps(value), schema)
