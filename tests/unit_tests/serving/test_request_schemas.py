"""Compare which requests the endpoint accepts with its published schemas, by jsonschema."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.response_requests import ResponseRequest
from langchain_sift.serving.session_routes import LearningRequest
from langchain_sift.serving.text_embeddings import EmbeddingRequest

LEARNING = {
    "k": 1,
    "fetch_k": 2,
    "kernel": "rbf",
    "length_scale": 1.0,
    "noise_variance": 1.0,
    "stopping_alpha": 1.0,
    "max_documents": 1,
    "max_train_tokens": 2,
    "max_train_seconds": 1.0,
    "objective": "text",
    "learning_rate": 1e-3,
    "steps_per_document": 1,
    "min_gain": 0.1,
    "filter": {"a": "b"},
    "timeout": 1.0,
}
TTFT = {**LEARNING, "mode": "ttft", "context_k": 1, "session": "new"}
SCHEMA = {"name": "n", "description": "d", "schema": {}, "strict": True}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
IGNORED = {
    "user": "u",
    "metadata": {},
    "store": True,
    "service_tier": "x",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "x",
    "parallel_tool_calls": True,
}
GENERATION = {
    "model": "m",
    "stream": True,
    "stream_options": {
        "include_usage": True,
        "include_ttft_steps": True,
        "include_obfuscation": True,
    },
    "max_tokens": 3,
    "temperature": 1.0,
    "top_p": 0.5,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "top_k": 1,
    "min_p": 0.5,
    "repetition_penalty": 1.0,
    "seed": 1,
    "stop": ["a", "b"],
    "ttft": TTFT,
    "n": 1,
    "logit_bias": {},
    "cache_control": 1,
    "prediction": 1,
    **IGNORED,
}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES = [
    {"role": "system", "content": "s", "name": "n"},
    {"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"},
    {"role": "assistant", "content": "x", "name": "n", "tool_calls": [CALL]},
    {"role": "tool", "content": "x", "tool_call_id": "1"},
]
CHAT = {
    **GENERATION,
    "messages": MESSAGES,
    "max_completion_tokens": 1,
    "tools": [{"type": "function", "function": FUNCTION, "cache_control": 1}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"a": 1},
    "logprobs": True,
    "top_logprobs": 1,
    "modalities": ["text"],
    "continue_final_message": True,
    "add_generation_prompt": False,
    "verbosity": "x",
}
OTHER_CHAT = {
    "model": "m",
    "messages": MESSAGES,
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
    },
    "response_format": {"type": "text"},
}
TEXT = {
    **GENERATION,
    "prompt": "x",
    "echo": True,
    "best_of": 1,
    "logprobs": 1,
    "suffix": "",
}
RESPONSE = {
    "model": "m",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"type": "reasoning"},
        {"role": "user", "content": "x"},
    ],
    "instructions": "i",
    "max_output_tokens": 1,
    "temperature": 1.0,
    "top_p": 0.5,
    "top_logprobs": 1,
    "stream": True,
    "stream_options": {"include_obfuscation": True},
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    },
    "text": {"format": {"type": "json_schema", **SCHEMA}, "verbosity": "x"},
    "reasoning": {"effort": "low", "summary": "x", "generate_summary": "x"},
    "ttft": TTFT,
    "background": False,
    "include": ["x"],
    "truncation": "disabled",
    **IGNORED,
}
BODIES = {
    "chat": (ChatCompletionRequest, CHAT),
    "other chat": (ChatCompletionRequest, OTHER_CHAT),
    "text": (CompletionRequest, TEXT),
    "texts": (CompletionRequest, {"model": "m", "prompt": ["x"]}),
    "tokens": (CompletionRequest, {"model": "m", "prompt": [1, 2]}),
    "lists of tokens": (CompletionRequest, {"model": "m", "prompt": [[1, 2]]}),
    "embeddings": (
        EmbeddingRequest,
        {"model": "m", "input": ["x"], "encoding_format": "float", "dimensions": 3, "user": "u"},
    ),
    "response": (ResponseRequest, RESPONSE),
    "session of a query": (LearningRequest, {"query": "x", "ttft": LEARNING}),
    "session of documents": (
        LearningRequest,
        {"documents": ["x", {"text": "x", "id": "1"}], "ttft": {"max_documents": 1}},
    ),
}
NUMBERS = [0, 1, -1, 2, -2, 10**30, 0.0, 1.0, -1.0, 0.5, 1.5]
TEXTS = ["", " ", "x", "auto", "none", "x" * 600]
LISTS = [[], [None], [1], [1.0], [""], ["x"], ["x", 1], [[]], [[1]], [[1.0]], [{}], ["x"] * 17]
OBJECTS = [{}, {"a": 1}, {"a": None}, {"type": "text"}, {"type": "text", "text": "x"}]
VALUES: list[Any] = [None, True, False, *NUMBERS, *TEXTS, *LISTS, [""] * 17, *OBJECTS]


def parts(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every part of a body with its place."""
    yield place, value
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from parts(part, (*place, key))
    for number, part in enumerate(value) if isinstance(value, list) else ():
        yield from parts(part, (*place, number))


def changed(body: Any) -> Iterator[tuple[str, Any]]:
    """Yield the body with each part left out, replaced, or with an unknown field."""
    for place, old in parts(body):
        for value in VALUES if place else ():
            new = copy.deepcopy(body)
            parent(new, place)[place[-1]] = value
            yield f"{place} is {json.dumps(value)[:40]}", new
        if place:
            new = copy.deepcopy(body)
            del parent(new, place)[place[-1]]
            yield f"without {place}", new
        for value in (None, 1) if isinstance(old, dict) else ():
            new = copy.deepcopy(body)
            parent(new, (*place, "unknown"))["unknown"] = value
            yield f"{place} has an unknown field {value}", new


def parent(body: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        body = body[key]
    return body


def accepts(model: Any, body: object) -> bool:
    try:
        model.model_validate(body)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", BODIES)
def test_no_request_is_accepted_that_the_schema_forbids(name):
    model, body = BODIES[name]
    allows = jsonschema.Draft202012Validator(model.model_json_schema()).is_valid
    assert accepts(model, body)
    assert allows(body)
    accepted = [(how, other) for how, other in changed(body) if accepts(model, other)]
    assert len(accepted) > 10
    assert [how for how, other in accepted if not allows(other)] == []
