"""Render turns as the prompt that a tokenizer's chat template writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError
from langchain_core.messages import BaseMessage

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.conversations import without_reasoning
from langchain_sift.language_models.template_arguments import TemplateArguments
from langchain_sift.language_models.tool_calls import ToolCallReader
from langchain_sift.language_models.tools import Tool
from langchain_sift.language_models.turn_forms import adapted_forms, calls_as_text, results_as_text
from langchain_sift.language_models.turns import (
    Turn,
    TurnCall,
    to_text,
    to_turns,
    with_instructions,
)
from langchain_sift.ttft.model.control_tokens import (
    control_tokens,
    new_mark,
    second_mark,
)
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer
from langchain_sift.ttft.model.reasoning_markers import reasoning_markers
from langchain_sift.ttft.model.tokens import text_tokens
from langchain_sift.ttft.texts import well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_ID = "probe1234"
_PROBE = "langchain_sift_probe"
_CALL = (
    "Answer with the call of one of these functions, as a JSON object of its name and its "
    'arguments such as {"name": ..., "arguments": {...}}, and with nothing else:\n'
)
_MAY_CALL = (
    "You may call one of these functions: then answer with a JSON object of its name and its "
    'arguments such as {"name": ..., "arguments": {...}}, and with nothing else:\n'
)
_HELLO: Turn = {"role": "user", "content": "Hello"}
_PROBE_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[Tool] = (),
    must_call: bool = False,
    arguments: TemplateArguments | None = None,
) -> list[int]:
    """Return the token ids of a conversation, up to the beginning of the answer.

    If the template refuses the conversation, other forms of it are tried: system texts before a
    human message, calls one by one, ids as Mistral wants them. Without a template, the prompt is
    the texts of the messages, separated by blank lines.

    Only the template writes control tokens: their names in messages and tools are text.

    Args:
        tokenizer: The model's tokenizer.
        messages: At least one message.
        tools: The tools that the model may call. A template without a place for tools gets them
            as a system text.
        must_call: If True, the prompt ends with the `call_opening`.
        arguments: Further arguments for the template.

    Raises:
        ArgumentError: If the template refuses the conversation, or a message holds more than text.
    """
    if not messages:
        raise ArgumentError("a conversation needs at least one message")
    parameter = _tools_parameter(tokenizer) if tools else ""
    describe = bool(tools) and not parameter
    if describe:
        purpose = _CALL if must_call else _MAY_CALL
        messages = with_instructions(messages, purpose + json.dumps(tools, ensure_ascii=False))
        tools = ()
    turns = to_turns(messages)
    turns = results_as_text(calls_as_text(turns)) if describe else turns
    if not tokenizer.chat_template:
        texts = [turn["content"] for turn in turns]
        return text_tokens(tokenizer, "\n\n".join(texts) if describe else to_text(messages))
    turns = without_reasoning(turns, reasoning_markers(tokenizer))
    if parameter == "system":
        turns = _with_tools_in_system_turn(turns, tools)
    further = arguments.for_template(tokenizer) if arguments else {}
    mark = new_mark()
    text = _render_accepted_form(tokenizer, turns, tools, further, mark)
    if must_call:
        text = _begin_call(tokenizer, text, tools, mark)
    return _encode(tokenizer, well_formed(text), mark)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, mark: str) -> list[int]:
    """Return the token ids of a rendered conversation, whose template wrote control tokens."""
    if mark in text:
        return control_tokens(tokenizer).encode(text, mark)
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    return list(encoded["input_ids"])


def _begin_call(
    tokenizer: PreTrainedTokenizerBase, text: str, tools: Sequence[Tool], mark: str
) -> str:
    """Return a prompt that ends with the beginning of a call, after reasoning if it has begun."""
    markers = reasoning_markers(tokenizer)
    if text.rstrip().endswith(markers.opening):
        text = f"{text}\n{markers.closing}\n\n"
    form = call_form(tokenizer, tools)
    if form is None:
        return text
    name = tools[0]["function"]["name"] if len(tools) == 1 else ""
    return text + form.opening + control_tokens(tokenizer).mark(name, mark)


def call_opening(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool]) -> str:
    """Return the text with which the template begins a call; with one tool, up to its name.

    A model whose answer begins with this text must call a tool. Empty if the template writes no
    calls in JSON.
    """
    form = call_form(tokenizer, tools)
    if form is None:
        return ""
    return form.opening + (tools[0]["function"]["name"] if len(tools) == 1 else "")


class CallForm(NamedTuple):
    """The texts before, between and after the name and the arguments of a call in JSON."""

    opening: str
    between: str
    closing: str
    """If a call has an identifier, this contains `PROBE_ID` in its place."""


def call_form(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool]) -> CallForm | None:
    """Return how the template writes a call of one of the tools; None if not in JSON."""
    if not tools or not _tools_parameter(tokenizer):
        return None
    markers = reasoning_markers(tokenizer)
    probe, prompt = _render_probe_call(tokenizer, tools), _apply(tokenizer, [_HELLO], tools)
    if prompt.rstrip().endswith(markers.opening):
        prompt = prompt.rstrip().removesuffix(markers.opening)
    if not probe or not probe.startswith(prompt):
        return None
    opening, _, rest = probe.removeprefix(prompt).partition(_PROBE)
    if markers.closing in opening:  # the template writes reasoning, which is empty
        opening = opening.rpartition(markers.closing)[2].lstrip()
    between, arguments, closing = rest.partition("{}")
    # Not the end of the turn, whose markers need not be tokens, nor the end of the call.
    answered: list[Turn] = [_HELLO, {"role": "assistant", "content": _PROBE}]
    closing = closing.removesuffix(_apply(tokenizer, answered, tools).rpartition(_PROBE)[2])
    for name in control_tokens(tokenizer).names_in(closing)[:1]:
        closing = closing.partition(name)[0]
    closing = closing.rstrip()
    example = f'{opening}{_PROBE}{between}{{"x": 1}}{closing}'
    read = ToolCallReader([_PROBE_TOOL], tokenizer).read(example)
    is_json = arguments and [call["args"] for call in read.calls] == [{"x": 1}]
    return CallForm(opening, between, closing) if is_json else None


@once_per_tokenizer
def _tools_parameter(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where the template reads tools: "argument", "system", or "" if it does not."""
    if not tokenizer.chat_template:
        return ""
    tools = [_PROBE_TOOL]
    attempts: dict[str, tuple[list[Turn], Sequence[Tool]]] = {
        "argument": ([_HELLO], tools),
        "system": (_with_tools_in_system_turn([_HELLO], tools), ()),
    }
    for parameter, (conversation, argument) in attempts.items():
        try:
            if _PROBE in _apply(tokenizer, conversation, argument):
                return parameter
        except ArgumentError:
            continue
    return ""


def _with_tools_in_system_turn(turns: Sequence[Turn], tools: Sequence[Tool]) -> list[Turn]:
    """Put the tools into the system turn, from which Phi-4's template reads them."""
    system: Turn = {"role": "system", "content": "You are a helpful assistant with some tools."}
    rest = list(turns)
    if rest[0]["role"] == "system":
        system = rest.pop(0)
    return [{**system, "tools": json.dumps([tool["function"] for tool in tools])}, *rest]


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    tools: Sequence[Tool],
    arguments: Mapping[str, object] | None = None,
) -> str:
    """Render turns as text."""
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


def _apply_marked(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    tools: Sequence[Tool],
    arguments: Mapping[str, object],
    mark: str,
) -> str:
    """Render turns as text, in which the names of control tokens in the turns are marked."""
    control = control_tokens(tokenizer)
    values = [list(turns), list(tools), arguments]
    marked = control.mark_all(values, mark)
    text = _apply(tokenizer, *marked)
    if marked == values:
        return text
    # A template that cuts or changes texts may leave pieces of a mark.
    second = second_mark(mark)
    again = _apply(tokenizer, *control.mark_all(values, second))
    if text.replace(mark, "") == again.replace(second, ""):
        return text
    plain = _apply(tokenizer, turns, tools, arguments)
    from_messages = Counter(control.names_in(plain)) - Counter(control.names_in(text))
    if not from_messages:
        return plain
    raise ArgumentError(
        "the model's chat template changes the messages, so that names of control tokens in them "
        f"cannot be kept as text: remove {min(from_messages)!r}"
    )


def _render_accepted_form(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[Turn],
    tools: Sequence[Tool],
    arguments: Mapping[str, object],
    mark: str,
) -> str:
    """Render the first form of the conversation that the template accepts without loss."""
    # Some templates silently drop turns that they do not support.
    required = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if _render_probe_call(tokenizer, tools) == "":
        turns = calls_as_text(turns)
    texts: list[str] = []
    refusals: list[ArgumentError] = []
    for form in adapted_forms(turns):
        try:
            texts.append(_apply_marked(tokenizer, form, tools, arguments, mark))
        except ArgumentError as error:
            refusals.append(error)
            continue
        if all(part in texts[-1].replace(mark, "") for part in required):
            return texts[-1]
    if not texts:
        raise refusals[-1]
    return texts[0]


def _render_probe_call(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool]) -> str | None:
    """Render a conversation that ends with a call of `_PROBE`.

    Returns:
        The text; "" if the call does not appear in it; None if the template refuses it.
    """
    call: TurnCall = {
        "type": "function",
        "id": PROBE_ID,
        "function": {"name": _PROBE, "arguments": {}},
    }
    turns: list[Turn] = [_HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        text = _apply(tokenizer, turns, tools)
    except ArgumentError:
        return None
    return text if _PROBE in text else ""
