"""Convert tools to OpenAI's format and apply `tool_choice`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_sift.errors import ArgumentError


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
        ArgumentError: If a tool is not a function, but a provider's built-in tool.
    """
    converted = [convert_to_openai_tool(tool) for tool in tools]
    if foreign := [tool.get("type") for tool in converted if "function" not in tool]:
        raise ArgumentError(
            f"{foreign[0]!r} is a tool of another provider's: a local model calls functions"
        )
    if strict is not None:
        for tool in converted:
            tool["function"] = {**tool["function"], "strict": strict}
    return cast("list[Tool]", converted)


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
            f'tool_choice {choice!r} is none of the tools {names}, nor "any", "auto" or "none"'
        )
    return named, True
