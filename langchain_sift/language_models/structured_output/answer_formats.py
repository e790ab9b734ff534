"""Read the formats that answers are asked for, and describe them to the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.tools import convert_tools
from langchain_sift.language_models.chat_templates.turns import with_instructions
from langchain_sift.language_models.structured_output.schema_parts import Part
from langchain_sift.language_models.structured_output.supported_schemas import (
    JSONSchema,
    supported_schema,
)

_FORMATS = ("text", "json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The JSON schema of an answer that is no tool call."""

    schema: JSONSchema
    """The schema, as `supported_schema` returns it."""

    instructions: str
    """Text for the prompt that describes the schema; empty for any JSON object."""

    def describe(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return the conversation with the instructions."""
        return with_instructions(messages, self.instructions) if self.instructions else [*messages]


def read_response_format(value: Any) -> AnswerFormat | None:
    """Return the format that a `response_format` of OpenAI's API asks for; None means any text.

    Args:
        value: None, a Pydantic class, a `TypedDict`, or a dict of the type "text", "json_schema"
            or "json_object". The last may have a "schema", which is then enforced, but not
            described to the model.

    Raises:
        ArgumentError: If it is none of these, or no decoder supports the schema.
    """
    if isinstance(value, type):
        value = as_response_format(value, described=True)
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return AnswerFormat(supported_schema(value.get("schema") or {"type": "object"}), "")
    described = value.get("json_schema") if isinstance(value, Mapping) else None
    described = described if isinstance(described, Mapping) else {}
    schema = described.get("schema")
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise ArgumentError(
            f"response_format must be a dict with one of the types {list(_FORMATS)}, and for the "
            f'last {{"json_schema": {{"schema": ...}}}}, got the type {kind!r}'
        )
    purpose = described.get("description") or schema.get("description")
    about = f" ({purpose})" if purpose else ""
    text = f"Answer with JSON{about} that follows this JSON schema, and with nothing else:\n"
    return AnswerFormat(supported_schema(schema), text + json.dumps(schema, ensure_ascii=False))


def as_response_format(schema: Any, *, described: bool) -> dict[str, Any]:
    """Return the `response_format` of a schema, which may be `described` to the model."""
    is_json_schema = isinstance(schema, Mapping) and "parameters" not in schema
    converted = dict(schema) if is_json_schema else _json_schema(schema)
    if not described:
        return {"type": "json_object", "schema": converted}
    named = {"name": converted.get("title", "answer"), "schema": converted}
    return {"type": "json_schema", "json_schema": named}


def _json_schema(schema: Any) -> Part:
    """Return the JSON schema of a class or a function in OpenAI's format."""
    function: Any = convert_tools([schema])[0]["function"]
    described = {"description": function["description"]} if "description" in function else {}
    return {"title": function["name"], **described, **(function.get("parameters") or {})}
