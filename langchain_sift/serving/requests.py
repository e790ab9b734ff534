"""What is sent and what comes back: OpenAI's bodies, and `ttft` in them.

What a request asks and this server cannot do is refused; nothing is passed over in silence, but
for what is known to change no answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from chromadb.api.types import validate_where
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from langchain_sift.config import Mode
from langchain_sift.selection.arguments import LEAST_NOISE_VARIANCE
from langchain_sift.stores.adapters.chroma import where

FinishReason = Literal["stop", "length", "tool_calls"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Lenient(BaseModel):
    """Of what a client sends back as it got it, with whatever other servers put into it."""

    model_config = ConfigDict(extra="ignore")


# --- asking ---------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=1, strict=True)]
# True is no number, and "yes" is no flag.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class TTFTOptions(_Strict):
    """How this one prompt is answered; what is left out is as the server was started."""

    mode: Mode | None = Field(
        default=None,
        description="base: the model alone. rag: documents in the prompt. ttft: the model learns "
        "from them first. both: it learns from them and has them in the prompt.",
    )
    k: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = Field(
        default=None, description="Documents."
    )
    fetch_k: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        default=None, description="Candidates that they are chosen from."
    )
    filter: dict[str, Any] | None = Field(
        default=None,
        description="Chroma's `where`; it narrows what the tenant sees.",
    )
    noise_variance: (
        Annotated[float, Field(ge=LEAST_NOISE_VARIANCE, allow_inf_nan=False, strict=True)] | None
    ) = Field(default=None, description="SIFT's λ'.")
    stopping_alpha: Positive | None = Field(
        default=None, description="SIFT's α: fewer documents for easy prompts."
    )
    learning_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] | None = (
        None
    )
    steps_per_document: Annotated[int, Field(ge=1, le=16, strict=True)] | None = None
    max_documents: Count | None = Field(default=None, description="Of those, learned from.")
    max_train_tokens: Count | None = None
    max_train_seconds: Positive | None = None
    min_gain: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] | None = Field(
        default=None, description="Documents that bring less in all are not learned from."
    )
    timeout: Positive | None = Field(
        default=None, description="Seconds for the whole answer; no more than the server's."
    )

    @field_validator("filter")
    @classmethod
    def _check_filter(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Let the store's own client say what is wrong, before anything is asked of it."""
        if value:
            validate_where(where(value))  # type: ignore[arg-type]
            _check_values(value)
        return value or None


def _check_values(condition: Any) -> None:
    """Reject what the store's protocol has no number for."""
    if isinstance(condition, dict):
        condition = [*condition, *condition.values()]
    if isinstance(condition, list):
        for part in condition:
            _check_values(part)
    elif isinstance(condition, int) and not -(1 << 63) <= condition < 1 << 63:
        raise ValueError("a number in a filter must have no more than 64 bits")
    elif isinstance(condition, float) and not abs(condition) < float("inf"):
        raise ValueError("a number in a filter must be finite")
    elif isinstance(condition, str):
        condition.encode()  # a lone surrogate is no text


class TextPart(_Lenient):
    """A piece of a message; this model reads text alone."""

    type: Literal["text"]
    text: str


Content: TypeAlias = str | list[TextPart]


class FunctionCall(_Lenient):
    """A call that the model made before."""

    name: str
    arguments: str = Field(description="JSON.")


class ToolCall(_Lenient):
    """The same, with its id."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(_Lenient):
    """What the model is to be like."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(_Lenient):
    """What a human says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(_Lenient):
    """What the model said before."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(_Lenient):
    """What a tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(_Strict):
    """What a tool is called, what it does and what it takes."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: Flag | None = None


class Tool(_Strict):
    """A function that the model may ask the client to call."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """A function by its name."""

    name: str


class NamedTool(_Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Strict):
    """What a stream tells besides."""

    include_usage: Flag = False
    include_obfuscation: Flag | None = None


class TextFormat(_Strict):
    """Answers are text."""

    type: Literal["text"]


class JSONSchema(_Strict):
    """What an answer is to look like."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: Flag | None = None


class JSONSchemaFormat(_Strict):
    """Answers are JSON objects of a schema: the arguments of a call that the model must make."""

    type: Literal["json_schema"]
    json_schema: JSONSchema


def _only(value: int) -> BeforeValidator:
    """Accept the one value that this server has; JSON may write 1 as 1.0."""

    def check(given: Any) -> Any:
        if given is None:
            return None
        if given == value and isinstance(given, bool) == isinstance(value, bool):
            return value
        raise ValueError(f"this server supports only {json.dumps(value)}")

    return BeforeValidator(check)


_NO = _only(value=False)
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63, strict=True)]
Stop = str | Annotated[list[str], Field(max_length=16)]


class _Asked(_Strict):
    """What both routes take."""

    model: str
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    ttft: TTFTOptions | None = None

    n: Annotated[Literal[1] | None, _only(1)] = None
    top_p: Annotated[Literal[1] | None, _only(1)] = None
    presence_penalty: Annotated[Literal[0] | None, _only(0)] = None
    frequency_penalty: Annotated[Literal[0] | None, _only(0)] = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    # They change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Flag | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: Stop | None) -> Stop | None:
        if value is not None and not all([value] if isinstance(value, str) else value):
            raise ValueError("a stop string must not be empty")
        return value


class ChatCompletionRequest(_Asked):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Flag | None = None
    response_format: (
        Annotated[TextFormat | JSONSchemaFormat, Field(discriminator="type")] | None
    ) = None
    logprobs: Annotated[Literal[False] | None, _NO] = None
    top_logprobs: Annotated[Literal[0] | None, _only(0)] = None


class CompletionRequest(_Asked):
    """A text to go on with."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Annotated[Literal[False] | None, _NO] = None
    best_of: Annotated[Literal[1] | None, _only(1)] = None
    logprobs: None = None
    suffix: None = None


# --- answering ------------------------------------------------------------------------------


class Seconds(BaseModel):
    """Where the time went."""

    retrieval: float
    waiting: float
    training: float
    generation: float


class TTFTRecord(BaseModel):
    """What was retrieved and learned for the answer; documents by their ids in the store."""

    mode: Mode
    context: list[str | None] = Field(default=[], description="Documents in the prompt.")
    documents: list[str | None] = Field(description="Learned from, in order, repeats counted.")
    gains: list[float | None] = Field(description="What each brought, by SIFT's reckoning.")
    skipped: list[str | None] = Field(description="Documents too short to learn from.")
    truncated: list[str | None] = Field(description="Documents of which the end was cut off.")
    steps: int
    tokens: int = Field(description="Learned from.")
    losses: list[float | None] = Field(description="Nats per token, just before each step.")
    update_norm: float | None
    drift: float | None
    ended: str | None = Field(description="Why training ended early.")
    fallback: str | None = Field(description="Why the base model answered.")
    cached: bool
    seconds: Seconds


class Usage(BaseModel):
    """Tokens of prompt and answer; those learned from are in `ttft`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnsweredMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """The answer: there is one."""

    index: Literal[0] = 0
    message: AnsweredMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A conversation's next message."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    ttft: TTFTRecord


class TextChoice(BaseModel):
    """The answer: there is one."""

    index: Literal[0] = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """How a text goes on."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    ttft: TTFTRecord


class Model(BaseModel):
    """What answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "langchain-sift"


class ModelList(BaseModel):
    """All of them: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Problem(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The shape of OpenAI's errors."""

    error: Problem


class Health(BaseModel):
    """Whether requests are answered."""

    status: Literal["ok", "degraded", "unavailable"]
    engine: Literal["ok", "busy", "unavailable"]
    store: Literal["ok", "unavailable"]
