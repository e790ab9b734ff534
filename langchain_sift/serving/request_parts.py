"""Validate the parts of requests: messages, tools and formats of the answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

# Strict: "yes" and 1 are not flags.
Flag = Annotated[bool, Field(strict=True)]


class Strict(BaseModel):
    """A body whose fields are all known. A field that is null counts as left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"additionalProperties": {"type": "null"}}
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None}


class Lenient(BaseModel):
    """Part of a conversation; clients send it back with fields that other servers added."""

    model_config = ConfigDict(extra="ignore")


class TextPart(Lenient):
    """A text in a message; other content is not supported."""

    type: Literal["text"]
    text: str


def _check_text_only(content: object) -> object:
    """Say what the model reads, before the types of the parts are compared."""
    parts = content if isinstance(content, list) else []
    if any(isinstance(part, dict) and part.get("type", "text") != "text" for part in parts):
        raise ValueError('this model reads text only: the parts of a message must be "text"')
    return content


Content: TypeAlias = Annotated[str | list[TextPart], BeforeValidator(_check_text_only)]


class FunctionCall(Lenient):
    """The function and the arguments of a tool call."""

    name: str
    arguments: str = Field(description="A JSON object. Empty for a function without arguments.")

    @field_validator("arguments")
    @classmethod
    def _complete(cls, value: str) -> str:
        return value if value.strip() else "{}"


class ToolCall(Lenient):
    """A tool call of the model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(Lenient):
    """Instructions to the model."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Lenient):
    """A message of the user."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Lenient):
    """An earlier message of the model."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(Lenient):
    """The result of a tool call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Strict):
    """Name, description and parameters of a function."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = Field(default=None, description="A JSON schema.")
    strict: Flag | None = None
    cache_control: object = Field(default=None, description="Ignored.")


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function
    cache_control: object = Field(default=None, description="Ignored.")


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Strict):
    """The tools that the model may call, of those in the request."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolChoice(Strict):
    """The choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice: TypeAlias = (
    Literal["none", "auto", "required"]
    | Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]
)


class StreamOptions(Strict):
    """Additional contents of a stream."""

    include_usage: Flag | None = None
    include_ttft_steps: Flag | None = Field(
        default=None, description="Send a chunk without choices for each gradient step."
    )
    include_obfuscation: Flag | None = None


class TextFormat(Strict):
    """Plain text as the format of the answer."""

    type: Literal["text"]


class JSONObjectFormat(Strict):
    """A JSON object as the format of the answer; the prompt must ask for it."""

    type: Literal["json_object"]


class JSONSchema(Strict):
    """The schema of the answer."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, object] = Field(alias="schema")
    strict: Flag | None = None


class JSONSchemaFormat(Strict):
    """A JSON object that follows a schema, as the format of the answer."""

    type: Literal["json_schema"]
    json_schema: JSONSchema


ResponseFormat = Annotated[
    TextFormat | JSONObjectFormat | JSONSchemaFormat, Field(discriminator="type")
]


def check_prompt(value: Any) -> Any:
    """Say what a prompt may be, before its forms are compared."""
    parts = value if isinstance(value, list) else [value]
    kinds = {type(part) for part in parts}
    if kinds in ({str}, {int}) and (isinstance(value, list) or kinds == {str}):
        return value
    if kinds == {list} and all({type(token) for token in part} == {int} for part in parts):
        return value
    raise ValueError("must be a text, token ids, or a list of texts or of lists of token ids")


Token: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]
Tokens: TypeAlias = Annotated[list[Token], Field(min_length=1)]
Prompt: TypeAlias = (
    str
    | Tokens
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[Tokens], Field(min_length=1)]
)


def list_of_prompts(prompt: Prompt) -> list[str | list[int]]:
    """Return the prompts of a request, as texts or token ids."""
    prompts: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    return [prompts] if isinstance(prompts[0], int) else prompts
