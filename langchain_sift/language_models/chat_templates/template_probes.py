"""Find out how a chat template shows tools and calls, by rendering a conversation with a probe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.tools import Function, Parameters, Tool
from langchain_sift.language_models.chat_templates.turns import Turn, TurnCall
from langchain_sift.ttft.model.control_tokens import control_tokens
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer
from langchain_sift.ttft.model.reasoning_markers import reasoning_markers
from langchain_sift.ttft.model.turn_ends import answer_with_reasoning

PROBE_ID = "probe1234"
_PROBE = "langchain_sift_probe"
_HELLO: Turn = {"role": "user", "content": "Hello"}
_ANSWER: Turn = {"role": "assistant", "content": _PROBE}
_CALL: TurnCall = {
    "type": "function",
    "id": PROBE_ID,
    "function": {"name": _PROBE, "arguments": {}},
}
_CALLING: Turn = {"role": "assistant", "content": "", "tool_calls": [_CALL]}


def _tool(name: str) -> Tool:
    parameters: Parameters = {"type": "object", "properties": {}, "required": []}
    function: Function = {"name": name, "description": "A probe.", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = [_tool(_PROBE)]
_OTHER_TOOLS = [_tool("other")]  # whose name is not that of the call


class CallForm(NamedTuple):
    """The texts before, between and after the name and the arguments of a call in JSON."""

    opening: str
    between: str
    closing: str
    """If a call has an identifier, this contains `PROBE_ID` in its place."""


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    tools: Sequence[Tool] = (),
    arguments: Mapping[str, object] | None = None,
) -> str:
    """Render turns as text, up to the beginning of the answer.

    Raises:
        ArgumentError: If the template refuses the conversation.
    """
    conversation: Any = list(turns)
    options: Any = {**(arguments or {}), "tools": list(tools) or None}
    try:
        text = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=False, **options
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ArgumentError(
            f"the model's chat template refuses the conversation: {error}"
        ) from error
    return str(text)


@once_per_tokenizer
def tools_parameter(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where the template reads tools: "argument", "system", or "" if it does not."""
    if not tokenizer.chat_template:
        return ""
    attempts: dict[str, tuple[list[Turn], Sequence[Tool]]] = {
        "argument": ([_HELLO], _TOOLS),
        "system": (with_tools_in_system_turn([_HELLO], _TOOLS), ()),
    }
    for parameter, (conversation, argument) in attempts.items():
        try:
            if _PROBE in apply_template(tokenizer, conversation, argument):
                return parameter
        except ArgumentError:
            continue
    return ""


def with_tools_in_system_turn(turns: Sequence[Turn], tools: Sequence[Tool]) -> list[Turn]:
    """Put the tools into the system turn, from which Phi-4's template reads them."""
    system: Turn = {"role": "system", "content": "You are a helpful assistant with some tools."}
    rest = list(turns)
    if rest[0]["role"] == "system":
        system = rest.pop(0)
    return [{**system, "tools": json.dumps([tool["function"] for tool in tools])}, *rest]


def drops_calls(tokenizer: PreTrainedTokenizerBase, *, beside_tools: bool) -> bool:
    """Return True if the template silently leaves out the calls of a conversation.

    Args:
        tokenizer: The model's tokenizer.
        beside_tools: True for a conversation in which the template gets tools.
    """
    return _drops_calls(tokenizer)[beside_tools]


@once_per_tokenizer
def _drops_calls(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether calls are dropped in a conversation without tools, and in one with tools."""

    def drops(tools: Sequence[Tool]) -> bool:
        """Return whether they are dropped beside these tools."""
        try:
            return _PROBE not in apply_template(tokenizer, [_HELLO, _CALLING], tools)
        except ArgumentError:
            return False

    return drops([]), drops(_OTHER_TOOLS)


@once_per_tokenizer
def call_form(tokenizer: PreTrainedTokenizerBase) -> CallForm | None:
    """Return how the template writes a call; None if not in JSON, or without a place for tools."""
    if not tools_parameter(tokenizer):
        return None
    markers = reasoning_markers(tokenizer)
    try:
        prompt = apply_template(tokenizer, [_HELLO], _TOOLS)
        probe = apply_template(tokenizer, [_HELLO, _CALLING], _TOOLS)
        answered = apply_template(tokenizer, [_HELLO, _ANSWER], _TOOLS)
    except ArgumentError:
        return None
    if prompt.rstrip().endswith(markers.opening):
        prompt = prompt.rstrip().removesuffix(markers.opening)
    if not probe.startswith(prompt):
        return None
    opening, _, rest = probe.removeprefix(prompt).partition(_PROBE)
    if markers.closing in opening:  # the template writes reasoning, which is empty
        opening = opening.rpartition(markers.closing)[2].lstrip()
    between, arguments, closing = rest.partition("{}")
    # Not the end of the turn, whose markers need not be tokens, nor the end of the call.
    closing = closing.removesuffix(answered.rpartition(_PROBE)[2])
    for name in control_tokens(tokenizer).names_in(closing)[:1]:
        closing = closing.partition(name)[0]
    return CallForm(opening, between, closing.rstrip()) if arguments else None


@once_per_tokenizer
def ordinary_names(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the names of control tokens that the template writes without tools or calls."""
    try:
        text = apply_template(tokenizer, [_HELLO, _ANSWER])
    except ArgumentError:
        text = ""
    reasoned = "".join(answer_with_reasoning(tokenizer))
    return frozenset(control_tokens(tokenizer).names_in(text + reasoned))
