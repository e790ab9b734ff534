"""Validate the bodies of OpenAI's newer API, `/v1/responses`, and convert them to chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticSerializationError, to_json

from langchain_sift.serving.error_responses import RequestRejected, failure_of_validation
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.serving.request_parts import (
    Flag,
    JSONObjectFormat,
    Lenient,
    Strict,
    TextFormat,
)
from langchain_sift.serving.requests import (
    MOST_MESSAGES,
    ChatCompletionRequest,
    MaxTokens,
    Share,
    TopLogprobs,
)

_LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text")


def _check_text_only(content: object) -> object:
    """Say what the model reads, before the types of the parts are compared."""
    parts = content if isinstance(content, list) else []
    if any(isinstance(part, dict) and part.get("type") not in _TEXT_PARTS for part in parts):
        raise ValueError("this model reads text only: the parts of a message must be texts")
    return content


class InputText(Lenient):
    """A text in an item."""

    type: Literal["input_text", "output_text", "text"]
    text: str


InputContent = Annotated[str | list[InputText], BeforeValidator(_check_text_only)]


class InputMessage(Lenient):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent


class InputCall(Lenient):
    """An earlier tool call of the model."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputOutput(Lenient):
    """The result of a tool call."""

    type: Literal["function_call_output"]
    call_id: str
    output: InputContent


class InputReasoning(Lenient):
    """Earlier reasoning, which is left out."""

    type: Literal["reasoning"]


def _kind(item: object) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "")
    return str(kind)


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputOutput, Tag("function_call_output")]
    | Annotated[InputReasoning, Tag("reasoning")],
    Discriminator(_kind),
]


class ResponseTool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: Flag | None = None


class ResponseNamedTool(Strict):
    """The tool that the model must call."""

    type: Literal["function"]
    name: str


class ResponseAllowedTools(Strict):
    """The choice among some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ResponseNamedTool], Field(min_length=1)]


ResponseToolChoice: TypeAlias = (
    Literal["none", "auto", "required"]
    | Annotated[ResponseNamedTool | ResponseAllowedTools, Field(discriminator="type")]
)


class ResponseSchemaFormat(Strict):
    """JSON that follows a schema, as the format of the answer."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, object] = Field(alias="schema")
    strict: Flag | None = None


class ResponseText(Strict):
    """The format of the answer."""

    format: (
        Annotated[TextFormat | JSONObjectFormat | ResponseSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    verbosity: str | None = Field(default=None, description="Ignored.")


class ResponseReasoning(Strict):
    """The amount of reasoning."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = Field(default=None, description="Ignored.")
    generate_summary: str | None = Field(default=None, description="Ignored.")


class ResponseStreamOptions(Strict):
    """Additional contents of a stream."""

    include_obfuscation: Flag | None = None


def _foreground(value: object) -> object:
    if value:
        raise ValueError("this server answers at once: leave it out")
    return value


# A literal would accept 0 for False.
Foreground = Annotated[Flag, AfterValidator(_foreground), Field(json_schema_extra={"const": False})]


class ResponseRequest(Strict):
    """A conversation that the model continues. The server keeps no conversation."""

    model: str
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: MaxTokens = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Share | None = None
    top_logprobs: TopLogprobs | None = None
    stream: Flag | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    text: ResponseText | None = None
    reasoning: ResponseReasoning | None = None
    ttft: TTFTOptions | None = None
    background: Foreground | None = None

    include: list[str] | None = Field(
        default=None, description=f'"{_LOGPROBS}" lists the tokens. Others are ignored.'
    )

    # Ignored: they never change an answer.
    metadata: dict[str, object] | None = None
    store: Flag | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    truncation: Literal["disabled"] | None = None

    @model_validator(mode="after")
    def _check_returned(self) -> Self:
        """Reject what the response cannot return, before the model answers."""
        try:
            to_json([self.instructions, self.metadata, self.tools, self.text])
        except PydanticSerializationError as error:
            raise ValueError(
                "instructions, metadata, tools and text are part of the response: they must be "
                "valid Unicode, and not nested too deep"
            ) from error
        return self

    def chat(self) -> ChatCompletionRequest:
        """Return the same request for a chat.

        Raises:
            RequestRejected: If a chat cannot say it.
        """
        fields: dict[str, object] = {
            "model": self.model,
            "messages": self._messages(),
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": [_chat_tool(tool) for tool in self.tools or ()] or None,
            "tool_choice": _chat_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _chat_format(self.text),
            "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
            "ttft": self.ttft,
            "stream": self.stream,
            "stream_options": {"include_usage": True} if self.stream else None,
        }
        if self.top_logprobs is not None or _LOGPROBS in (self.include or ()):
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        try:
            return ChatCompletionRequest.model_validate(fields)
        except ValidationError as error:
            raise RequestRejected(failure_of_validation(error.errors(), fields)) from error

    def _messages(self) -> list[dict[str, object]]:
        """Return the messages; calls of one turn are one message."""
        messages: list[dict[str, object]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, InputMessage):
                messages.append({"role": item.role, "content": _text(item.content)})
            elif isinstance(item, InputOutput):
                result = {"tool_call_id": item.call_id, "content": _text(item.output)}
                messages.append({"role": "tool", **result})
            elif isinstance(item, InputCall):
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                calls: Any = messages[-1].setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "type": "function", "function": function})
        return messages


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _chat_tool(tool: ResponseTool) -> dict[str, object]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _chat_choice(choice: ResponseToolChoice | None) -> object:
    if isinstance(choice, ResponseAllowedTools):
        allowed = {"mode": choice.mode, "tools": [_chat_choice(tool) for tool in choice.tools]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    if isinstance(choice, ResponseNamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _chat_format(text: ResponseText | None) -> object:
    if text is None or text.format is None:
        return None
    if isinstance(text.format, ResponseSchemaFormat):
        schema = text.format.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": "json_schema", "json_schema": schema}
    return text.format.model_dump()
