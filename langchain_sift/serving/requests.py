"""Validate the bodies of requests: OpenAI's fields, and `ttft`.

A request for something that this server cannot do is rejected. Only fields that never change an
answer are ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from langchain_sift.serving.options import TTFTOptions, whole
from langchain_sift.serving.request_parts import (
    AllowedToolChoice,
    AssistantMessage,
    Flag,
    Message,
    Prompt,
    ResponseFormat,
    StreamOptions,
    Strict,
    Tool,
    ToolChoice,
    check_prompt,
    list_of_prompts,
)

FILL_CONTEXT = (1 << 31) - 1
"""The value of `max_tokens` for an answer that may fill the context."""

MOST_MESSAGES = 4096
"""Maximum number of messages of a conversation."""

Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63, strict=True), BeforeValidator(whole)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]


def _without_empty(value: object) -> object:
    """Return the stop strings that are not empty; None if there are none."""
    if isinstance(value, list):
        return [text for text in value if text != ""] or None
    return None if value == "" else value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must be at least 1, or -1 for as many as the context has room for")
    return value


def _limited(value: int) -> int:
    """Return more than any context for -1: clients ask so for as much as there is room for."""
    return FILL_CONTEXT if value == -1 else value


def _no_suffix(value: object) -> object:
    """Accept an empty text for none."""
    if value not in (None, ""):
        raise ValueError("this server writes no text before a suffix: leave it out")
    return value


def _no_bias(value: object) -> object:
    """Accept an empty object for none."""
    if value not in (None, {}):
        raise ValueError("this server biases no tokens: leave it out")
    return value


TopLogprobs: TypeAlias = Annotated[int, Field(ge=0, le=20, strict=True), BeforeValidator(whole)]
_MOST_ANSWERS = 1024
Stop = str | Annotated[list[str], Field(max_length=16)]
_Limit = Annotated[int, Field(ge=-1, strict=True), BeforeValidator(whole)]
TextTokens = Annotated[_Limit, AfterValidator(_limited)] | None
MaxTokens = (
    Annotated[
        _Limit,
        AfterValidator(_not_zero),
        AfterValidator(_limited),
        Field(json_schema_extra={"not": {"const": 0}}),
    ]
    | None
)


class _Request(Strict):
    """Fields of both kinds of requests."""

    model: str
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = Field(
        default=None, description="-1 means as many as the context has room for."
    )
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    # OpenAI has no such fields; vLLM names and bounds them so.
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
    stop: Annotated[Stop | None, AfterValidator(_without_empty)] = None
    ttft: TTFTOptions | None = None

    n: Annotated[int, Field(ge=1, le=128, strict=True), BeforeValidator(whole)] | None = Field(
        default=None, description="Number of answers to each prompt, after one training."
    )
    logit_bias: Annotated[dict[str, object] | None, BeforeValidator(_no_bias)] = Field(
        default=None, json_schema_extra={"maxProperties": 0}
    )

    # Ignored: they never change an answer.
    user: str | None = None
    metadata: dict[str, object] | None = None
    store: Flag | None = None
    cache_control: object = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prediction: object = None
    parallel_tool_calls: Flag | None = None


class ChatCompletionRequest(_Request):
    """A conversation that the model continues."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: MaxTokens = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    # Not of OpenAI; named as by vLLM.
    chat_template_kwargs: dict[Annotated[str, Field(max_length=64)], object] | None = Field(
        default=None,
        max_length=16,
        description="Arguments for the chat template, such as enable_thinking.",
    )
    logprobs: Flag | None = None
    top_logprobs: TopLogprobs | None = None
    modalities: list[Literal["text"]] | None = None
    # Not of OpenAI; named as by vLLM.
    continue_final_message: Flag | None = Field(
        default=None,
        description="Whether the answer continues a last message of the assistant. By default it "
        "does, unless it must be a tool call or follow a format.",
    )
    add_generation_prompt: Flag | None = Field(
        default=None, description="true is short for continue_final_message: false."
    )
    verbosity: str | None = Field(default=None, description="Ignored.")

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        return self

    @property
    def continues(self) -> bool:
        """True if the answer continues the last message."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        last = self.messages[-1]
        is_begun = isinstance(last, AssistantMessage) and last.content and not last.tool_calls
        in_form = self.response_format is not None and self.response_format.type != "text"
        choice = self.tool_choice
        mode = choice.allowed_tools.mode if isinstance(choice, AllowedToolChoice) else choice
        must_call = mode not in (None, "none", "auto")
        chosen = self.add_generation_prompt or in_form or must_call or len(self.messages) == 1
        return bool(is_begun) and not chosen


class CompletionRequest(_Request):
    """A text that the model continues."""

    prompt: Annotated[Prompt, BeforeValidator(check_prompt)] = Field(
        description="A text, its token ids, or a list of texts or of lists of token ids."
    )
    max_tokens: TextTokens = Field(
        default=None,
        description="-1 means as many as the context has room for. 0 only with echo.",
    )
    echo: Flag | None = None
    best_of: Annotated[int, Field(strict=True), BeforeValidator(whole)] | None = Field(
        default=None, description="1, or as n: then no answer is left out."
    )
    logprobs: TopLogprobs | None = Field(
        default=None, description="Number of likeliest tokens to list for each token."
    )
    suffix: Annotated[str | None, BeforeValidator(_no_suffix)] = Field(
        default=None, json_schema_extra={"maxLength": 0}
    )

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, value: int | None, fields: ValidationInfo) -> int | None:
        if value not in {None, 1, fields.data.get("n")}:
            raise ValueError("this server supports only 1, or as many as n")
        return value

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true")
        if len(self.prompts) * (self.n or 1) > _MOST_ANSWERS:
            raise ValueError(f"a request may ask for {_MOST_ANSWERS} answers, prompts times n")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, as texts or token ids."""
        return list_of_prompts(self.prompt)
