"""Validate the bodies of requests: OpenAI's fields, and `ttft`.

A request for something that this server cannot do is rejected. Only fields that never change an
answer are ignored.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from langchain_sift.serving.options import Count, TTFTOptions, whole

# Strict: "yes" and 1 are not flags.
Flag = Annotated[bool, Field(strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Lenient(BaseModel):
    """Part of a conversation; clients send it back with fields that other servers added."""

    model_config = ConfigDict(extra="ignore")


class TextPart(_Lenient):
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


class FunctionCall(_Lenient):
    """The function and the arguments of a tool call."""

    name: str
    arguments: str = Field(description="A JSON object. Empty for a function without arguments.")

    @field_validator("arguments")
    @classmethod
    def _complete(cls, value: str) -> str:
        return value if value.strip() else "{}"


class ToolCall(_Lenient):
    """A tool call of the model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(_Lenient):
    """Instructions to the model."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(_Lenient):
    """A message of the user."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(_Lenient):
    """An earlier message of the model."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(_Lenient):
    """The result of a tool call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(_Strict):
    """Name, description and parameters of a function."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = Field(default=None, description="A JSON schema.")
    strict: Flag | None = None
    cache_control: object = Field(default=None, description="Ignored.")


class Tool(_Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function
    cache_control: object = Field(default=None, description="Ignored.")


class NamedFunction(_Strict):
    """The name of a function."""

    name: str


class NamedTool(_Strict):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Strict):
    """Additional contents of a stream."""

    include_usage: Flag = False
    include_obfuscation: Flag | None = None


class TextFormat(_Strict):
    """Plain text as the format of the answer."""

    type: Literal["text"]


class JSONObjectFormat(_Strict):
    """A JSON object as the format of the answer; the prompt must ask for it."""

    type: Literal["json_object"]


class JSONSchema(_Strict):
    """The schema of the answer."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, object] = Field(alias="schema")
    strict: Flag | None = None


class JSONSchemaFormat(_Strict):
    """A JSON object that follows a schema, as the format of the answer."""

    type: Literal["json_schema"]
    json_schema: JSONSchema


ResponseFormat = Annotated[
    TextFormat | JSONObjectFormat | JSONSchemaFormat, Field(discriminator="type")
]


def _only(value: int) -> BeforeValidator:
    """Accept a single value; JSON may write 1 as 1.0."""

    def check(received: object) -> int | None:
        if received is None:
            return None
        if received == value and isinstance(received, bool) == isinstance(value, bool):
            return value
        raise ValueError(f"this server supports only {json.dumps(value)}")

    return BeforeValidator(check)


_NO = _only(value=False)
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63, strict=True), BeforeValidator(whole)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]


def _without_empty(value: object) -> object:
    """Return the stop strings that are not empty; None if there are none."""
    if isinstance(value, list):
        return [text for text in value if text != ""] or None
    return None if value == "" else value


def _limited(value: object) -> object:
    """Return None for -1, with which some clients ask for as many tokens as there is room for."""
    return None if value in (-1, -1.0) else value


Stop = str | Annotated[list[str], Field(max_length=16)]
MaxTokens = Annotated[Count | None, BeforeValidator(_limited)]


class _Request(_Strict):
    """Fields of both kinds of requests."""

    model: str
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = Field(
        default=None, description="-1 means as many as the server and the context allow."
    )
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    # Not of OpenAI; named and bounded as by vLLM.
    top_k: (
        Annotated[
            int,
            Field(ge=-1, strict=True, description="-1 and 0 mean all."),
            BeforeValidator(whole),
        ]
        | None
    ) = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = (
        None
    )
    seed: Seed | None = None
    stop: Annotated[Stop | None, BeforeValidator(_without_empty)] = None
    ttft: TTFTOptions | None = None

    n: Annotated[Literal[1] | None, _only(1)] = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    # Ignored: they never change an answer.
    user: str | None = None
    metadata: dict[str, object] | None = None
    store: Flag | None = None
    cache_control: object = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class ChatCompletionRequest(_Request):
    """A conversation that the model continues."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: MaxTokens = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Flag | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    # Not of OpenAI; named as by vLLM.
    chat_template_kwargs: dict[Annotated[str, Field(max_length=64)], object] | None = Field(
        default=None,
        max_length=16,
        description="Arguments for the chat template, such as enable_thinking.",
    )
    logprobs: Annotated[Literal[False] | None, _NO] = None
    top_logprobs: Annotated[Literal[0] | None, _only(0)] = None
    modalities: list[Literal["text"]] | None = None


class CompletionRequest(_Request):
    """A text that the model continues."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Annotated[Literal[False] | None, _NO] = None
    best_of: Annotated[Literal[1] | None, _only(1)] = None
    logprobs: None = None
    suffix: None = None
