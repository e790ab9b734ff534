"""Define the bodies of responses: OpenAI's objects, and the record of the fine-tuning in `ttft`.

`ToolCall` of `requests` is used in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal, TypedDict

from langchain_core.messages.ai import UsageMetadata
from pydantic import BaseModel, Field
from starlette.responses import Response

from langchain_sift.config import Mode
from langchain_sift.serving.request_parts import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]


class Seconds(BaseModel):
    """Durations of the phases of a request, in seconds."""

    retrieval: float
    waiting: float
    teaching: float = Field(
        default=0.0, description='Of the teacher, with the objective "distill".'
    )
    training: float
    generation: float


class TTFTRecord(BaseModel):
    """Record of retrieval and fine-tuning; documents are named by their ids in the store."""

    mode: Mode = Field(description="The mode of the answer; of a request of mode auto, its choice.")
    mode_reason: str | None = Field(default=None, description="Reason for the choice of auto.")
    context: list[str | None] = Field(
        description="Documents in the prompt, most informative first."
    )
    context_left_out: list[str | None] = Field(
        description="Documents that the prompt has no room for."
    )
    context_cut: list[str | None] = Field(
        description="Documents in the prompt whose end was cut off."
    )
    documents: list[str | None] = Field(description="Documents trained on, in order, with repeats.")
    gains: list[float | None] = Field(description="SIFT's gain of each document trained on.")
    skipped: list[str | None] = Field(description="Documents that were too short to train on.")
    truncated: list[str | None] = Field(description="Documents whose end was cut off.")
    steps: int = Field(description="Number of gradient steps.")
    tokens: int = Field(description="Number of training tokens.")
    losses: list[float | None] = Field(description="Loss just before each step, in nats per token.")
    learning_rate: float | None = Field(description="Learning rate of the training steps.")
    update_norm: float | None = Field(
        description="Norm of the adapter's update, as a share of the norm of the weights."
    )
    drift: float | None = Field(
        description="Rise of the loss on the server's drift texts, in nats per token."
    )
    ended: str | None = Field(description="Reason why training ended early.")
    layers: list[str] = Field(description="Layers with an adapter, by name; * is a number.")
    left_out: list[str] = Field(description="Weights of experts that cannot get an adapter.")
    weights: int = Field(description="Number of weights of the adapter.")
    fallback: str | None = Field(description="Reason why the base model answered.")
    cached: bool = Field(description="True if the adapter came from the server's cache.")
    session: str | None = Field(
        default=None, description="The session that answered, or the new one."
    )
    shortened: bool = Field(
        description="True if JSON was completed early to fit max_tokens; it is valid."
    )
    seconds: Seconds


class CompletionTokensDetails(BaseModel):
    """Parts of the number of tokens of an answer."""

    reasoning_tokens: int = Field(default=0, description="Tokens of the reasoning.")


class Usage(BaseModel):
    """Numbers of tokens of prompt and answer; `ttft` has the number of training tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails = Field(
        default_factory=CompletionTokensDetails
    )

    @property
    def reasoning_tokens(self) -> int:
        """Number of tokens of the reasoning."""
        return self.completion_tokens_details.reasoning_tokens


def usage_of(usage: UsageMetadata | None) -> Usage:
    """Return the usage of an answer, as LangChain gives it."""
    counts = usage or UsageMetadata(input_tokens=0, output_tokens=0, total_tokens=0)
    details = counts.get("output_token_details", {})
    return make_usage(counts["input_tokens"], counts["output_tokens"], details.get("reasoning", 0))


def make_usage(prompt: int, completion: int, reasoning: int) -> Usage:
    """Return the usage with these numbers of tokens; the reasoning is a part of the completion."""
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning),
    )


class ResponseMessage(BaseModel):
    """The message of the model."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = Field(default=None, description="Not of OpenAI; as by vLLM.")
    tool_calls: list[ToolCall] | None = None


class TokenLogprob(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TokenLogprob):
    """A token of an answer, with the likeliest tokens in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[ContentLogprob]
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ResponseMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The continuation of a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    ttft: TTFTRecord


class TextLogprobs(BaseModel):
    """The tokens of a text, after the prompt if it is echoed, in parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """The continuation of a text."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    ttft: TTFTRecord | list[TTFTRecord] = Field(
        description="The record, or one for each of several prompts."
    )


class FunctionCallDelta(TypedDict):
    """The function and the arguments of a call, in a stream."""

    name: str | None
    arguments: str | None


class ToolCallDelta(TypedDict):
    """A tool call in a stream."""

    index: int
    id: str | None
    type: Literal["function"]
    function: FunctionCallDelta


class Delta(TypedDict, total=False):
    """Additions to a message in a stream."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    tool_calls: list[ToolCallDelta]


class ChunkChoice(TypedDict, total=False):
    """The choice of a chunk; it has a `delta` or a `text`."""

    index: int
    delta: Delta
    text: str
    logprobs: Mapping[str, object] | None
    finish_reason: FinishReason | None


class Chunk(TypedDict, total=False):
    """A part of a stream."""

    id: str
    object: Literal["chat.completion.chunk", "text_completion"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None
    ttft: TTFTRecord | list[TTFTRecord]
    ttft_step: Mapping[str, object]


class Model(BaseModel):
    """The model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "langchain-sift"


class ModelList(BaseModel):
    """A list of the only model."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetails(BaseModel):
    """Message and kind of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetails


class Health(BaseModel):
    """The state of the engine and of the store."""

    status: Literal["ok", "degraded", "unavailable"]
    engine: Literal["ok", "busy", "unavailable"]
    store: Literal["ok", "unavailable"]


def json_response(model: BaseModel, status: int = HTTPStatus.OK) -> Response:
    """Return the HTTP response with a body."""
    # Serialized by pydantic: it writes a loss that is NaN as null, unlike the `json` module.
    return Response(model.model_dump_json(), status, media_type="application/json")
