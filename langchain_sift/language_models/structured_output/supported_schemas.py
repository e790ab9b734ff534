"""Turn JSON schemas into those that llguidance takes, and refuse what it cannot enforce."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any

from llguidance import LLMatcher

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.structured_output.schema_parts import (
    NAMED,
    NESTED,
    Part,
    map_schemas,
    target_of,
)
from langchain_sift.language_models.structured_output.schema_problems import (
    costly_multiple,
    endless,
    repeatable_keys,
)

# No free white space, with which small models fill the rest of an answer.
_SPACING = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_MOST_CHARACTERS = 200_000  # of a schema, as JSON
_MESSAGE = 300  # characters of llguidance's message, which may repeat a value of the schema
_UNKNOWN_FORMAT = "Unknown format: "
_JOINED = {"anyOf", "oneOf", "$ref"}  # next to properties, they describe the same object

# Keywords that say which values there are, rather than which are valid; and those that say neither.
_STRUCTURE = {*NAMED, *NESTED, "type", "required", "enum", "const", "$ref"}
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated"}
_MOST_KEYWORDS = 500  # to try by themselves; each takes half a millisecond

JSONSchema = Mapping[str, Any]


def supported_schema(schema: JSONSchema) -> Part:
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


def nearest_supported(schema: JSONSchema) -> Part:
    """Return a schema as llguidance takes it, without what no decoder supports.

    If it does not suffice to leave out the keywords that are a problem by themselves, types and
    names stay; and if no decoder takes these, any object.
    """
    with suppress(ArgumentError):
        return supported_schema(schema)
    with suppress(ArgumentError, RecursionError):
        found: Part = json.loads(_nearest(_json(schema)))
        return found
    return supported_schema({"type": "object"})


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
def _nearest(text: str) -> str:
    for keywords in (None, _STRUCTURE):
        with suppress(ArgumentError, TypeError):
            return json.dumps(supported_schema(_simplified(json.loads(text), keywords)))
    raise ArgumentError("no decoder supports the schema")


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
    """Return why answers cannot be held to a schema; empty if they can."""
    if not isinstance(schema, dict):
        return f"a schema must be an object, got {schema!r}"
    if problem := costly_multiple(schema) or repeatable_keys(schema):
        return problem
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:  # such as an integer of more than 64 bits
        return str(error)[:_MESSAGE]
    _, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0] if messages else endless(schema)


def _closed(schema: Any) -> Any:
    """Forbid further properties in objects that name theirs; most models name all they mean.

    A schema in which parts of one object are described apart stays as it is.
    """
    parts: list[Part] = []

    def collect(part: Part) -> Part:
        """Note a schema, and return it as it is."""
        parts.append(part)
        return part

    map_schemas(schema, collect)
    if any("allOf" in part or ("properties" in part and _JOINED & part.keys()) for part in parts):
        return schema
    return map_schemas(schema, _close)


def _close(schema: Part) -> Part:
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

    def drop(part: Part) -> Part:
        """Return a schema without its format, if that is unknown."""
        name = part.get("format")
        if not isinstance(name, str) or _is_known_format(name):
            return part
        return {key: value for key, value in part.items() if key != "format"}

    return map_schemas(schema, drop)


@functools.lru_cache(maxsize=256)
def _is_known_format(name: str) -> bool:
    return _UNKNOWN_FORMAT not in _problem({"type": "string", "format": name})


def _simplified(schema: Any, keywords: Set[str] | None) -> Any:
    """Return a schema without the keywords that are a problem by themselves.

    Args:
        schema: The schema.
        keywords: The only ones to keep. None means all.

    Raises:
        ArgumentError: If there are too many to try.
    """
    tried: set[str] = set()

    def is_kept(key: str, value: Any) -> bool:
        """Return whether a keyword is to be kept, and is no problem by itself."""
        if key in _ANNOTATIONS or key == "$ref":
            return True
        if keywords is not None and key not in keywords:
            return False
        text = json.dumps({key: _alone(key, value)})
        tried.add(text)
        if len(tried) > _MOST_KEYWORDS:
            raise ArgumentError(f"the schema has more than {_MOST_KEYWORDS} different keywords")
        return not _keyword_problem(text)

    def keep(part: Part) -> Part:
        """Return a schema with its other keywords; alternatives need not exclude each other."""
        part = dict(part)
        if "oneOf" in part and "anyOf" not in part:
            part["anyOf"] = part.pop("oneOf")
        if "$ref" in part and target_of(schema, part["$ref"]) is None:
            del part["$ref"]
        return {key: value for key, value in part.items() if is_kept(key, value)}

    return map_schemas(schema, keep)


def _alone(key: str, value: Any) -> Any:
    """Return the value of a keyword with any value in the place of each schema in it."""
    if key in NAMED and isinstance(value, dict):
        return dict.fromkeys(value, True)
    if key in NESTED:
        return [True] * len(value) if isinstance(value, list) else True
    return value


@functools.lru_cache(maxsize=1024)
def _keyword_problem(text: str) -> str:
    return _problem(json.loads(text))
