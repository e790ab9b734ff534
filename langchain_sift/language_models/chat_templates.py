"""From LangChain's messages to the prompt that a tokenizer's chat template writes."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call

from langchain_sift.errors import ArgumentError, require

require("ttft", "jinja2", "torch", "transformers")

from jinja2 import TemplateError  # noqa: E402

from langchain_sift.ttft.model.tokens import well_formed  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]
Turn = dict[str, Any]

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
# A model is not shown its old reasoning, and its calls are shown as such.
_REASONING = ("reasoning", "reasoning_content", "thinking", "redacted_thinking")
_CALLS = ("tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call")
_PROBE = "langchain_sift_probe"
_HELLO: Turn = {"role": "user", "content": "Hello"}


def query(messages: Sequence[BaseMessage]) -> str:
    """Return the last text of a human, or of the last message where no human said any."""
    human = [message for message in messages if isinstance(message, HumanMessage) and message.text]
    return (human or messages)[-1].text if messages else ""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[BaseMessage],
    *,
    tools: Tools = (),
    must_call: bool = False,
) -> list[int]:
    """Return the token ids of a conversation, up to where the model is to go on.

    What a template refuses is said in another form where there is one: system texts before a
    human message, several calls one by one, ids as Mistral wants them. Without a template, the
    prompt is the texts of the messages, a blank line between them.

    Args:
        tokenizer: The model's own.
        messages: At least one.
        tools: In OpenAI's format, as `convert_to_openai_tool` makes them.
        must_call: Whether the prompt ends with the `call_opening`.

    Raises:
        ArgumentError: If the template refuses the conversation or has no place for tools, or a
            message holds more than text.
    """
    if not messages:
        raise ArgumentError("a conversation needs at least one message")
    place = _tool_place(tokenizer) if tools else ""
    if tools and not place:
        raise ArgumentError(
            f"the chat template of {_name(tokenizer)} has no place for tools: use an instruct "
            "model whose template takes them, such as Qwen, Llama 3.1 or later or Mistral, or "
            "describe the tools in the prompt"
        )
    messages = list(_with_results_apart(messages))
    if not tokenizer.chat_template:
        text = "\n\n".join(_text(message) for message in messages)
        return list(tokenizer(well_formed(text), verbose=False)["input_ids"])
    turns = _merged(_turns(messages))
    if place == "system":
        turns = _with_tools(turns, tools)
    text = _rendered(tokenizer, turns, tools)
    if must_call:
        text += call_opening(tokenizer, tools)
    return list(tokenizer(well_formed(text), add_special_tokens=False, verbose=False)["input_ids"])


def call_opening(tokenizer: PreTrainedTokenizerBase, tools: Tools) -> str:
    """Return how the template begins a call: with the tool's name, if there is one tool only.

    A model whose answer begins like this has no choice but to call a tool. Empty where the
    template shows no calls.
    """
    if not tools or not (shown := _probe_call(tokenizer, tools)):
        return ""
    prompt = _apply(tokenizer, [_HELLO], tools)
    if not shown.startswith(prompt):
        return ""
    begun = shown.removeprefix(prompt).partition(_PROBE)[0]
    return begun + (tools[0]["function"]["name"] if len(tools) == 1 else "")


# From messages to turns.


def _turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Return the messages as chat templates know them."""
    turns: list[Turn] = []
    tool_names: dict[str | None, str] = {}
    for message in messages:
        turn: Turn = {"role": _role(message), "content": _text(message)}
        name = message.name
        if isinstance(message, AIMessage):
            # What was meant as a call is at least something that the model said.
            said = [turn["content"], *(call["args"] for call in message.invalid_tool_calls)]
            turn["content"] = "\n".join(filter(None, said))
            calls = message.tool_calls or _anthropic_calls(message)
            if calls:
                turn["tool_calls"] = [_openai_call(call) for call in calls]
            tool_names.update({call["id"]: call["name"] for call in calls})
        if isinstance(message, ToolMessage):
            turn["tool_call_id"] = message.tool_call_id
            name = name or tool_names.get(message.tool_call_id)
        turns.append({**turn, "name": name} if name else turn)
    return turns


def _with_results_apart(messages: Sequence[BaseMessage]) -> Iterator[BaseMessage]:
    """Yield results of tools, which Anthropic's format puts into a human message, before it."""
    for message in messages:
        results = _blocks(message, "tool_result")
        for block in results:
            called = _part(block, "tool_use_id")
            yield ToolMessage(block.get("content") or "", tool_call_id=called)
        rest = [block for block in message.content if block not in results]
        if not results:
            yield message
        elif rest:
            yield message.model_copy(update={"content": rest})


def _anthropic_calls(message: AIMessage) -> list[ToolCall]:
    return [
        tool_call(name=_part(block, "name"), args=_part(block, "input"), id=_part(block, "id"))
        for block in _blocks(message, "tool_use")
    ]


def _part(block: Mapping[str, Any], name: str) -> Any:
    if name not in block:
        raise ArgumentError(f"a content block of type {block['type']!r} has no {name!r}")
    return block[name]


def _blocks(message: BaseMessage, kind: str) -> list[dict[str, Any]]:
    blocks = message.content if isinstance(message.content, list) else ()
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise ArgumentError(f"a {type(message).__name__} is no part of a conversation with a model")


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else str(block.get("type"))
        if kind == "text":
            texts.append(block if isinstance(block, str) else str(block.get("text", "")))
        elif kind not in (*_REASONING, *_CALLS):
            raise ArgumentError(
                f"a content block of type {kind!r} is none that the model can read: give it text"
            )
    return "\n".join(texts)


def _openai_call(call: ToolCall) -> Turn:
    # Templates write the arguments as JSON themselves: a string would come out quoted twice.
    function = {"name": call["name"], "arguments": call["args"]}
    return {"type": "function", "id": call["id"] or "", "function": function}


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Join turns of one role: many templates refuse two in a row."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else {}
        alike = turn["role"] == last.get("role") != "tool"
        # Text may be followed by calls in one turn, but nothing follows the calls.
        if alike and "tool_calls" not in last:
            both = {**last, **turn}
            both["content"] = "\n".join(filter(None, [last["content"], turn["content"]]))
            if last.get("name") != turn.get("name"):
                both.pop("name")  # of neither alone
            merged[-1] = both
        else:
            merged.append(turn)
    return merged


def _with_tools(turns: Sequence[Turn], tools: Tools) -> list[Turn]:
    """Put the tools where Phi-4's template looks for them."""
    head: Turn = {"role": "system", "content": "You are a helpful assistant with some tools."}
    rest = list(turns)
    if rest[0]["role"] == "system":
        head = rest.pop(0)
    return [{**head, "tools": json.dumps([tool["function"] for tool in tools])}, *rest]


# From turns to text.


def _tool_place(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where the template looks for tools: "argument", "system", or "" for nowhere."""
    if not tokenizer.chat_template:
        return ""
    tool = {
        "type": "function",
        "function": {
            "name": _PROBE,
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    }
    attempts = {"argument": ([_HELLO], [tool]), "system": (_with_tools([_HELLO], [tool]), ())}
    for place, (conversation, tools) in attempts.items():
        try:
            if _PROBE in _apply(tokenizer, conversation, tools):
                return place
        except ArgumentError:
            continue
    return ""


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], tools: Tools) -> str:
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=True,
            tokenize=False,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"the chat template of {_name(tokenizer)} refuses the conversation: {error}"
        ) from error
    return str(text)


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], tools: Tools) -> str:
    """Return the conversation in the first form that the template takes whole."""
    # Some templates drop what they have no place for, without a word.
    needed = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if _probe_call(tokenizer, tools) == "":
        turns = _calls_as_text(turns)
    texts: list[str] = []
    refusals: list[ArgumentError] = []
    for form in _forms(turns):
        try:
            texts.append(_apply(tokenizer, form, tools))
        except ArgumentError as error:
            refusals.append(error)
            continue
        if all(part in texts[-1] for part in needed):
            return texts[-1]
    if not texts:
        raise refusals[-1]
    return texts[0]


def _forms(turns: list[Turn]) -> Iterator[list[Turn]]:
    """Yield the conversation as it is, then with ever more adaptations at once."""
    tried: list[list[Turn]] = []
    for count in range(len(_ADAPTATIONS) + 1):
        for chosen in itertools.combinations(_ADAPTATIONS, count):
            form = functools.reduce(lambda form, adapt: adapt(form), chosen, turns)
            if form not in tried:
                tried.append(form)
                yield form


def _probe_call(tokenizer: PreTrainedTokenizerBase, tools: Tools) -> str | None:
    """Return a conversation that ends with a call of `_PROBE`; "" where the call is not in it.

    None where the template refuses it.
    """
    call = {"type": "function", "id": "probe1234", "function": {"name": _PROBE, "arguments": {}}}
    turns = [_HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        text = _apply(tokenizer, turns, tools)
    except ArgumentError:
        return None
    return text if _PROBE in text else ""


def _calls_as_text(turns: list[Turn]) -> list[Turn]:
    """Say what was called: a template that knows no calls would leave an empty turn."""
    adapted = []
    for turn in turns:
        said = {key: value for key, value in turn.items() if key != "tool_calls"}
        if "tool_calls" in turn:
            calls = json.dumps([call["function"] for call in turn["tool_calls"]], default=str)
            said["content"] = "\n".join(filter(None, [turn["content"], calls]))
        adapted.append(said)
    return adapted


def _with_short_ids(turns: list[Turn]) -> list[Turn]:
    """Give calls ids of nine letters and digits: Mistral's templates refuse all others."""

    def short(name: str) -> str:
        fits = re.fullmatch("[A-Za-z0-9]{9}", name)
        return name if fits else hashlib.sha256(name.encode()).hexdigest()[:9]

    adapted = []
    for turn in turns:
        new = dict(turn)
        if "tool_calls" in turn:
            new["tool_calls"] = [{**call, "id": short(call["id"])} for call in turn["tool_calls"]]
        if "tool_call_id" in turn:
            new["tool_call_id"] = short(turn["tool_call_id"])
        adapted.append(new)
    return adapted


def _one_call_per_turn(turns: list[Turn]) -> list[Turn]:
    """Follow each call by its result: Llama 3.1's template refuses two calls at once."""
    adapted: list[Turn] = []
    for turn in turns:
        calls = turn.get("tool_calls", [])
        place = len(adapted)
        if turn["role"] == "tool":
            for number, earlier in enumerate(adapted):
                ids = [call["id"] for call in earlier.get("tool_calls", ())]
                place = number + 1 if turn.get("tool_call_id") in ids else place
        single = [{**turn, "content": "", "tool_calls": [call]} for call in calls[1:]]
        first = {**turn, "tool_calls": calls[:1]} if single else turn
        adapted[place:place] = [first, *single]
    return adapted


def _without_system(turns: list[Turn], *, keep: int = 0) -> list[Turn]:
    """Put all but the first `keep` system texts before the human message that follows them."""
    adapted: list[Turn] = []
    waiting: list[str] = []
    for number, turn in enumerate(turns):
        if turn["role"] == "system" and number >= keep:
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            adapted.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            adapted.append(turn)
    if waiting:
        adapted.append({"role": "user", "content": "\n\n".join(waiting)})
    return _merged(adapted)


# From what changes the prompt least.
_ADAPTATIONS: tuple[Callable[[list[Turn]], list[Turn]], ...] = (
    _with_short_ids,
    _one_call_per_turn,
    functools.partial(_without_system, keep=1),
    _without_system,
)
