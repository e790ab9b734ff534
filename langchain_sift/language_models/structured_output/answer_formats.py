"""Turn JSON schemas into the grammars of answers, and describe them to the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.utils.function_calling import convert_to_json_schema
from llguidance import LLMatcher

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.turns import with_instructions

_FORMATS = ("text", "json_object", "json_schema")
# No free white space, with which small models fill the rest of an answer.
_SPACING = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_MOST_CHARACTERS = 200_000  # of a schema, as JSON
_MESSAGE = 300  # characters of llguidance's message, which may repeat a value of the schema
_UNKNOWN_FORMAT = "Unknown format: "
# Keywords whose values hold schemas by name, and as a value or list.
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_NESTED = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")
_JOINED = {"anyOf", "oneOf", "$ref"}  # next to properties, they describe the same object

JSONSchema = Mapping[str, Any]


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
    converted = dict(schema) if is_json_schema else convert_to_json_schema(schema)
    if not described:
        return {"type": "json_object", "schema": converted}
    named = {"name": converted.get("title", "answer"), "schema": converted}
    return {"type": "json_schema", "json_schema": named}


def supported_schema(schema: JSONSchema) -> dict[str, Any]:
    """Return a schema as llguidance takes it.

    Objects have only the properties that the schema names, unless it says otherwise. Formats of
    strings that llguidance does not know are not enforced, as JSON Schema allows.

    Raises:
        ArgumentError: If no decoder supports the schema; the message names the keyword. If it is
            larger than 200,000 characters.
    """
    try:
        supported = _supported(_json(schema))
    except RecursionError as error:
        raise ArgumentError("the schema of the answer is nested too deep: flatten it") from error
    return {**json.loads(supported), "x-guidance": _SPACING}


def _json(schema: JSONSchema) -> str:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the schema of the answer is no JSON: {error}") from error
    if len(text) > _MOST_CHARACTERS:
        raise ArgumentError(
            f"the schema of the answer has {len(text):,} characters, more than "
            f"{_MOST_CHARACTERS:,}: shorten it, or ask for its parts one by one"
        )
    return text


@functools.lru_cache(maxsize=256)
def _supported(text: str) -> str:
    schema = json.loads(text)
    for candidate in (_closed(schema), schema):
        problem, known = _problem(candidate), candidate
        if _UNKNOWN_FORMAT in problem:
            known = _without_unknown_formats(candidate)
            problem = _problem(known)
        if not problem:
            return json.dumps(known)
    raise ArgumentError(
        f"no decoder supports the schema: {' '.join(problem.split())}; leave this out, and "
        "check the answer for it"
    )


def _problem(schema: Any) -> str:
    if not isinstance(schema, dict):
        return f"a schema must be an object, got {schema!r}"
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:  # such as an integer of more than 64 bits
        return str(error)[:_MESSAGE]
    _, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0] if messages else ""


def _closed(schema: Any) -> Any:
    """Forbid further properties in objects that name theirs; most models name all they mean.

    A schema in which parts of one object are described apart stays as it is.
    """
    parts: list[dict[str, Any]] = []

    def collect(part: dict[str, Any]) -> dict[str, Any]:
        """Note a schema, and return it as it is."""
        parts.append(part)
        return part

    _map_schemas(schema, collect)
    if any("allOf" in part or ("properties" in part and _JOINED & part.keys()) for part in parts):
        return schema
    return _map_schemas(schema, _close)


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    names = schema.get("properties")
    open_ = "additionalProperties" in schema or "patternProperties" in schema
    required = schema.get("required")
    listed = required if isinstance(required, list) else []
    needed = {name for name in listed if isinstance(name, str)}
    if open_ or not isinstance(names, dict) or needed - names.keys():
        return schema
    return {**schema, "additionalProperties": False}


def _without_unknown_formats(schema: Any) -> Any:
    """Return a schema without the formats that llguidance does not know: they are annotations."""

    def drop(part: dict[str, Any]) -> dict[str, Any]:
        """Return a schema without its format, if that is unknown."""
        name = part.get("format")
        if not isinstance(name, str) or _is_known_format(name):
            return part
        return {key: value for key, value in part.items() if key != "format"}

    return _map_schemas(schema, drop)


@functools.lru_cache(maxsize=256)
def _is_known_format(name: str) -> bool:
    return _UNKNOWN_FORMAT not in _problem({"type": "string", "format": name})


def _map_schemas(schema: Any, change: Any) -> Any:
    """Change a schema and all schemas in it, but no other values, such as constants."""
    if isinstance(schema, list):
        return [_map_schemas(part, change) for part in schema]
    if not isinstance(schema, dict):
        return schema
    mapped = dict(schema)
    for key in schema.keys() & {*_NESTED}:
        mapped[key] = _map_schemas(schema[key], change)
    for key in schema.keys() & {*_NAMED}:
        if isinstance(schema[key], dict):
            mapped[key] = {name: _map_schemas(part, change) for name, part in schema[key].items()}
    return change(mapped)
