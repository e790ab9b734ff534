"""Render turns as the prompt that a tokenizer's chat template writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.conversations import without_reasoning
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.chat_templates.template_probes import (
    apply_template,
    call_form,
    drops_calls,
    tools_parameter,
    with_tools_in_system_turn,
)
from langchain_sift.language_models.chat_templates.tools import Tool
from langchain_sift.language_models.chat_templates.turn_forms import (
    adapted_forms,
    calls_as_text,
    results_as_text,
)
from langchain_sift.language_models.chat_templates.turns import (
    Turn,
    to_text,
    to_turns,
    with_instructions,
)
from langchain_sift.ttft.model.control_tokens import Disguise, control_tokens
from langchain_sift.ttft.model.reasoning_markers import may_reason, reasoning_markers
from langchain_sift.ttft.model.tokens import check_not_far_beyond, text_tokens
from langchain_sift.ttft.texts import well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from langchain_sift.config import ReasoningMarkers

_CALL = (
    "Answer with the call of one of these functions, as a JSON object of its name and its "
    'arguments such as {"name": ..., "arguments": {...}}, and with nothing else:\n'
)
_MAY_CALL = (
    "You may call one of these functions: then answer with a JSON object of its name and its "
    'arguments such as {"name": ..., "arguments": {...}}, and with nothing else:\n'
)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[Tool] = (),
    must_call: bool = False,
    beginning: str = "",
    arguments: TemplateArguments | None = None,
    limit: int | None = None,
) -> list[int]:
    """Return the token ids of a conversation, up to the beginning of the answer.

    If the template refuses the conversation, other forms of it are tried: system texts before a
    human message, calls one by one, ids as Mistral wants them. Without a template, the prompt is
    the texts of the messages and their calls, separated by blank lines.

    Only the template writes control tokens: their names in messages and tools are text.

    Args:
        tokenizer: The model's tokenizer.
        messages: At least one message.
        tools: The tools that the model may call. A template without a place for tools gets them
            as a system text.
        must_call: If True, the prompt ends with the `call_opening`.
        beginning: The beginning of the answer, with which the prompt ends. It is content: reasoning
            that the template opens is closed before it.
        arguments: Further arguments for the template.
        limit: Number of tokens of the model's context. None means any.

    Raises:
        PromptTooLong: If the prompt has far more tokens; see `check_not_far_beyond`.
        ArgumentError: If the template refuses the conversation, or a message holds more than text.
    """
    if not messages:
        raise ArgumentError("a conversation needs at least one message")
    parameter = tools_parameter(tokenizer) if tools else ""
    describe = bool(tools) and not parameter
    if describe:
        purpose = _CALL if must_call else _MAY_CALL
        messages = with_instructions(messages, purpose + json.dumps(tools, ensure_ascii=False))
        tools = ()
    turns = to_turns(messages)
    without_template = not tokenizer.chat_template
    has_calls = without_template and any("tool_calls" in turn for turn in turns)
    if describe or has_calls:
        turns = results_as_text(calls_as_text(turns))
    if without_template:
        texts = [turn["content"] for turn in turns]
        text = "\n\n".join(texts) if describe or has_calls else to_text(messages)
        whole = f"{text}\n\n{beginning}" if beginning else text
        return text_tokens(tokenizer, whole, limit=limit)
    turns = without_reasoning(turns, reasoning_markers(tokenizer))
    if parameter == "system":
        turns = with_tools_in_system_turn(turns, tools)
    further = arguments.for_template(tokenizer) if arguments else {}
    disguise = control_tokens(tokenizer).disguise([turns, tools, further, beginning])
    text = _render_accepted_form(tokenizer, turns, tools, further, disguise)
    if must_call:
        begun = text.rstrip().endswith(reasoning_markers(tokenizer).opening)
        markers = replace(reasoning_markers(tokenizer), begun=begun)
        opening, name = call_opening(tokenizer, tools, markers)
        text += opening + disguise.hide(name)
    if beginning:
        text = _after_reasoning(text, reasoning_markers(tokenizer)) + disguise.hide(beginning)
    check_not_far_beyond(tokenizer, disguise.show(text), limit)
    return control_tokens(tokenizer).encode_disguised(well_formed(text), disguise)


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    tools: Sequence[Tool],
    arguments: TemplateArguments,
) -> int:
    """Return the number of tokens of a conversation's prompt, also of a part of a conversation.

    LangChain's `trim_messages` counts parts from the end. Where the template refuses a part, each
    of its messages counts as a prompt of its own, the first one with the tools: never too few
    tokens, but there may be far too many, as where a template begins each prompt with instructions.
    """
    if not messages:
        return 0
    try:
        return len(render(tokenizer, messages, tools=tools, arguments=arguments))
    except ArgumentError:
        turns = results_as_text(calls_as_text(to_turns(messages)))
        alone = [[HumanMessage(turn["content"])] for turn in turns]
        prompts = [
            render(tokenizer, one, tools=() if n else tools, arguments=arguments)
            for n, one in enumerate(alone)
        ]
        return sum(map(len, prompts))


def _after_reasoning(text: str, markers: ReasoningMarkers) -> str:
    """Return a prompt with the reasoning closed that it has begun."""
    begun = text.rstrip().endswith(markers.opening)
    return f"{text.rstrip()}\n\n{markers.closing}\n\n" if begun else text


def call_opening(
    tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool], reasoning: ReasoningMarkers | None
) -> tuple[str, str]:
    """Return how the prompt begins a required call: the opening and, of a single tool, the name.

    Empty if the template writes no calls in JSON, or if the model may reason before the call.
    """
    form = call_form(tokenizer)
    if form is None or may_reason(tokenizer, reasoning):
        return "", ""
    return form.opening, tools[0]["function"]["name"] if len(tools) == 1 else ""


def _render_accepted_form(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[Turn],
    tools: Sequence[Tool],
    arguments: Mapping[str, object],
    disguise: Disguise,
) -> str:
    """Render, in disguise, the first form of the conversation that the template accepts."""
    # Some templates silently drop turns that they do not support.
    required = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if drops_calls(tokenizer, beside_tools=bool(tools)):
        turns = calls_as_text(turns)
    texts: list[str] = []
    refusals: list[ArgumentError] = []
    for form in adapted_forms(turns):
        try:
            texts.append(apply_template(tokenizer, *disguise.hide([form, tools, arguments])))
        except ArgumentError as error:
            refusals.append(error)
            continue
        if all(part in disguise.show(texts[-1]) for part in required):
            return texts[-1]
    if not texts:
        raise refusals[-1]
    return texts[0]
