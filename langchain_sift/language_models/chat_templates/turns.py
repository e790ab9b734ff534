"""Convert LangChain messages to the turns that chat templates take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

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

from langchain_sift.errors import ArgumentError


class CalledFunction(TypedDict):
    """The function of a call, with its arguments."""

    name: str
    arguments: Mapping[str, object]


class TurnCall(TypedDict):
    """A tool call in OpenAI's format, but with the arguments as an object."""

    type: str
    id: str
    function: CalledFunction


class Turn(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[TurnCall]]
    tool_call_id: NotRequired[str]
    tools: NotRequired[str]
    """The tools as JSON, for templates that read them from the system turn."""


_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
# Earlier reasoning is left out of the prompt; calls are converted separately.
_REASONING = ("reasoning", "reasoning_content", "thinking", "redacted_thinking")
_CALLS = ("tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call")


def last_human_text(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the last human message, or of the last message if no human wrote one."""
    human = [message for message in messages if isinstance(message, HumanMessage) and message.text]
    return text_of((human or messages)[-1]) if messages else ""


def text_of(message: BaseMessage) -> str:
    """Return the texts of a message, one in each line as in the prompt; nothing else of it."""
    if isinstance(message.content, str):
        return message.content
    texts = (
        block if isinstance(block, str) else str(block.get("text") or "")
        for block in message.content
        if _kind(block) == "text"
    )
    return "\n".join(texts)


def split_answer(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], str]:
    """Return a conversation without its last message, and the text of this message.

    Raises:
        ArgumentError: If the last message is not the text of an answer, or the only message.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, AIMessage) or last.tool_calls or not last.text or len(messages) == 1:
        raise ArgumentError(
            "continue_final_message needs a conversation whose last message is the beginning of an "
            "answer: text of the assistant, after another message"
        )
    return list(messages[:-1]), _text(last)


def with_instructions(messages: Sequence[BaseMessage], text: str) -> list[BaseMessage]:
    """Return the conversation with a system text after those that it begins with."""
    leading = 0
    while leading < len(messages) and isinstance(messages[leading], SystemMessage):
        leading += 1
    return [*messages[:leading], SystemMessage(text), *messages[leading:]]


def to_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Convert messages to turns; consecutive turns of one role become one.

    Raises:
        ArgumentError: If a message holds content other than text, or has no role.
    """
    return merge_turns([*_turns(_separate_tool_results(messages))])


def to_text(messages: Sequence[BaseMessage]) -> str:
    """Join the texts of the messages by blank lines.

    Raises:
        ArgumentError: If a message holds content other than text.
    """
    return "\n\n".join(_text(message) for message in _separate_tool_results(messages))


def merge_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Merge consecutive turns of one role, which many templates refuse."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        # Calls may follow text in one turn, but nothing may follow the calls.
        if last is not None and turn["role"] == last["role"] != "tool" and "tool_calls" not in last:
            merged[-1] = _merge(last, turn)
        else:
            merged.append(turn)
    return merged


def _merge(first: Turn, second: Turn) -> Turn:
    merged: Turn = {**first, **second}
    merged["content"] = "\n".join(filter(None, [first["content"], second["content"]]))
    if first.get("name") != second.get("name"):
        merged.pop("name", None)  # the turn belongs to more than one speaker
    return merged


def _turns(messages: Iterator[BaseMessage]) -> Iterator[Turn]:
    tool_names: dict[str | None, str] = {}
    for message in messages:
        turn: Turn = {"role": _role(message), "content": _text(message)}
        name = message.name
        if isinstance(message, AIMessage):
            # The model should see a malformed call that it wrote.
            parts = [turn["content"], *(call["args"] for call in message.invalid_tool_calls)]
            turn["content"] = "\n".join(filter(None, parts))
            calls = message.tool_calls or _anthropic_calls(message)
            if calls:
                turn["tool_calls"] = [_turn_call(call) for call in calls]
            tool_names.update({call["id"]: call["name"] for call in calls})
        if isinstance(message, ToolMessage):
            turn["tool_call_id"] = message.tool_call_id
            name = name or tool_names.get(message.tool_call_id)
        if name:
            turn["name"] = name
        yield turn


def _separate_tool_results(messages: Sequence[BaseMessage]) -> Iterator[BaseMessage]:
    """Yield tool results, which Anthropic's format puts into a human message, before it."""
    for message in messages:
        results = _blocks(message, "tool_result")
        for block in results:
            call_id = _value(block, "tool_use_id")
            yield ToolMessage(block.get("content") or "", tool_call_id=call_id)
        rest = [block for block in message.content if block not in results]
        if not results:
            yield message
        elif rest:
            yield message.model_copy(update={"content": rest})


def _anthropic_calls(message: AIMessage) -> list[ToolCall]:
    return [
        tool_call(name=_value(block, "name"), args=_value(block, "input"), id=_value(block, "id"))
        for block in _blocks(message, "tool_use")
    ]


def _value(block: Mapping[str, Any], name: str) -> Any:
    if name not in block:
        raise ArgumentError(f"a content block of type {block['type']!r} has no {name!r}")
    return block[name]


def _blocks(message: BaseMessage, kind: str) -> list[Mapping[str, Any]]:
    blocks = message.content if isinstance(message.content, list) else ()
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise ArgumentError(f"a {type(message).__name__} cannot be part of a conversation with a model")


def _text(message: BaseMessage) -> str:
    """Return the texts of a message that holds nothing else for the prompt."""
    blocks = message.content if isinstance(message.content, list) else ()
    for kind in map(_kind, blocks):
        if kind not in ("text", *_REASONING, *_CALLS):
            raise ArgumentError(
                f"the model cannot read a content block of type {kind!r}: use text instead"
            )
    return text_of(message)


def _kind(block: str | Mapping[str, object]) -> str:
    return "text" if isinstance(block, str) else str(block.get("type"))


def _turn_call(call: ToolCall) -> TurnCall:
    # Templates write the arguments as JSON: a string would be quoted twice.
    function: CalledFunction = {"name": call["name"], "arguments": call["args"]}
    return {"type": "function", "id": call["id"] or "", "function": function}
