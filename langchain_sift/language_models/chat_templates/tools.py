"""Convert tools to OpenAI's format and apply `tool_choice`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from langchain_core.tools import BaseTool, create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.structured_output.schema_parts import (
    Part,
    contains_itself,
    map_schemas,
    target_of,
)

_OUTSIDE = ("title", "description")
"""Parts of a JSON schema that are parts of the function instead of its parameters."""

_DEFINITIONS = {"$defs", "definitions"}
_BESIDE_REF = {"$ref", "$schema", *_DEFINITIONS, *_OUTSIDE}
"""Parts of a JSON schema that say nothing of the values."""


class Parameters(TypedDict, total=False):
    """The JSON schema of a function's arguments."""

    type: str
    properties: Mapping[str, object]
    required: Sequence[str]


class Function(TypedDict):
    """A function in OpenAI's format."""

    name: str
    description: NotRequired[str]
    parameters: NotRequired[Parameters | None]
    strict: NotRequired[bool | None]
    """If True, the arguments of each call follow the schema."""


class Tool(TypedDict):
    """A tool in OpenAI's format."""

    type: Literal["function"]
    function: Function


def convert_tools(
    tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
    *,
    strict: bool | None = None,
) -> list[Tool]:
    """Convert tools of any kind that LangChain accepts.

    Args:
        tools: The tools.
        strict: Whether the arguments of calls must follow the schemas. None means that each tool
            says so itself.

    Raises:
        ArgumentError: If a tool is not a function, but a provider's built-in tool, or a `TypedDict`
            contains itself.
    """
    converted = [_converted(tool) for tool in tools]
    if foreign := [tool.get("type") for tool in converted if "function" not in tool]:
        raise ArgumentError(
            f"{foreign[0]!r} is a tool of another provider's: a local model calls functions"
        )
    if strict is not None:  # LangChain returns the caller's own dicts, which must not change
        converted = [
            {**tool, "function": {**tool["function"], "strict": strict}} for tool in converted
        ]
    return cast("list[Tool]", converted)


def _converted(tool: Any) -> Part:
    """Convert a tool; in contrast to LangChain, lose no part of the schema of its arguments."""
    try:
        converted = convert_to_openai_tool(tool)
    except RecursionError as error:
        name = getattr(tool, "__name__", "the tool")
        raise ArgumentError(
            f"{name!r} contains itself, which LangChain cannot convert: pass a Pydantic class, or "
            "a JSON schema"
        ) from error
    schema = _lost_schema(tool)
    if not schema:
        return converted
    untitled = map_schemas(_inlined(schema), lambda part: _without(part, ["title"]))
    function = {**converted["function"], "parameters": _without(untitled, _OUTSIDE)}
    return {**converted, "function": function}


def _inlined(schema: Part) -> Part:
    """Return a schema with the parts in the place of its `$ref` that this leads to.

    Keywords beside a `$ref` must hold as well: then it stays.
    """
    seen = set[str]()
    while isinstance(ref := schema.get("$ref"), str) and ref not in seen:
        seen.add(ref)
        target = target_of(schema, ref)
        if not isinstance(target, dict) or schema.keys() - _BESIDE_REF:
            break
        schema = {**target, **{key: schema[key] for key in _DEFINITIONS & schema.keys()}}
    return schema


def _lost_schema(tool: Any) -> Part:
    """Return the JSON schema of a tool's arguments if LangChain loses a part of it, or nothing.

    It drops a schema without properties, and puts any value in the place of a reference that leads
    back.
    """
    if isinstance(tool, Mapping):
        kept = {"name", "toolSpec", "function", "properties"} & tool.keys()
        return {} if kept or "title" not in tool else dict(tool)
    if isinstance(tool, BaseTool):
        tool = tool.tool_call_schema
    elif callable(tool) and not isinstance(tool, type):
        tool = create_schema_from_function(
            getattr(tool, "__name__", "tool"),
            tool,
            filter_args=(),
            parse_docstring=True,
            error_on_invalid_docstring=False,
            include_injected=False,
        )
    if isinstance(tool, type):
        if not is_basemodel_subclass(tool):
            return {}
        is_of_pydantic_1 = not hasattr(tool, "model_json_schema")
        tool = getattr(tool, "schema" if is_of_pydantic_1 else "model_json_schema")()
    return dict(tool) if contains_itself(tool) else {}


def _without(part: Mapping[str, Any], keys: Sequence[str]) -> Part:
    return {key: value for key, value in part.items() if key not in keys}


def choose_tools(tools: Sequence[Tool], choice: Any) -> tuple[Sequence[Tool], bool]:
    """Apply `tool_choice`.

    Args:
        tools: The tools of the call.
        choice: "none", "auto", "any", "required", a boolean, the name of a tool, None, or the
            dict of OpenAI or Anthropic that says one of these.

    Returns:
        The tools to offer to the model, and True if the model must call one of them.

    Raises:
        ArgumentError: If `choice` names no tool, or requires a call and there are no tools.
    """
    if isinstance(choice, dict) and choice.get("type") in ("any", "auto", "none"):
        choice = choice["type"]
    if choice == "none":
        return [], False
    if not choice or choice == "auto":
        return tools, False
    if not tools:
        raise ArgumentError(
            f"tool_choice {choice!r} needs tools, got none: pass some, or leave it out"
        )
    if choice is True or choice in ("any", "required"):
        return tools, True
    name = choice
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, dict) else None
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        names = [tool["function"]["name"] for tool in tools]
        raise ArgumentError(
            f'tool_choice {choice!r} is none of the tools {names}, nor "required", "auto" or "none"'
        )
    return named, True
