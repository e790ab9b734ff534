"""Read documents that are questions and answers, or conversations: the objective "answer".

The fields of such a document are in its metadata, or its text is JSON of them:

    question, answer        two texts; of several `answers` the first counts, and SQuAD's form
                            {"text": [...]} is read as well
    prompt, completion      the same
    instruction, output     the same; an `input` belongs to the instruction
    messages                a list of {"role": ..., "content": ...}, or of LangChain's messages
    conversations           the same, or a list of {"from": "human" or "gpt", "value": ...}

Metadata takes precedence, and then the text is not read. A list in metadata may also be JSON, for
stores that hold only texts and numbers. The text may also be the list of messages itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    convert_to_messages,
    merge_message_runs,
)

from langchain_sift.errors import ArgumentError

_PAIRS = (
    ("question", ("answer", "answers")),
    ("prompt", ("completion",)),
    ("instruction", ("output",)),
)
_CONVERSATIONS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant"}

_CURE = (
    'give its metadata a "question" and an "answer", or "messages" of which one is the '
    "assistant's, or make its text JSON of these; or train with objective='text'"
)


def conversation_of(document: Document, index: int) -> list[BaseMessage]:
    """Return the messages of a document, of which at least one answers others.

    Args:
        document: The document.
        index: Its index, for the message of an error.

    Raises:
        ArgumentError: If the document is none of the forms above, or has no answer.
    """
    name = named(document, index)
    for fields in (document.metadata, _json(document.page_content)):
        try:
            messages = _messages(fields)
        except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
            raise ArgumentError(
                f"{name} has messages that cannot be read, {type(error).__name__}: {_CURE}"
            ) from None
        if messages is None:
            continue
        if answers_in(messages):
            return messages
        raise ArgumentError(f"{name} has no answer to learn (objective='answer'): {_CURE}")
    raise ArgumentError(
        f"{name} is neither a question with its answer nor a conversation, which "
        f"objective='answer' learns: {_CURE}"
    )


def named(document: Document, index: int) -> str:
    """Return how messages name a document: by its index, and its id if it has one."""
    return f"document {index}" if document.id is None else f"document {index} ({document.id!r})"


def answers_in(messages: Sequence[BaseMessage]) -> list[int]:
    """Return the indices of the assistant's messages with a text, but for one that is the first."""
    return [
        index
        for index, message in enumerate(messages)
        if index > 0 and isinstance(message, AIMessage) and message.text.strip()
    ]


def _messages(fields: object) -> list[BaseMessage] | None:
    """Return the messages in the fields of a document; None if they have none of the forms."""
    if isinstance(fields, list):
        fields = {"messages": fields}
    if not isinstance(fields, Mapping):
        return None
    for name in _CONVERSATIONS:
        value = fields.get(name)
        value = _json(value) if isinstance(value, str) else value
        if isinstance(value, list | tuple):
            return merge_message_runs(convert_to_messages([_with_role(one) for one in value]))
    for question, answers in _PAIRS:
        key = next((key for key in answers if fields.get(key) is not None), None)
        if question in fields and key is not None:
            asked = [fields[question], fields.get("input") if question == "instruction" else None]
            text = "\n\n".join(str(part) for part in asked if part not in (None, ""))
            return [HumanMessage(text), AIMessage(_first(key, fields[key]))]
    return None


def _with_role(message: Any) -> Any:
    """Return a message in the form with roles."""
    if not isinstance(message, Mapping) or "from" not in message:
        return message
    sender = str(message["from"])
    return {"role": _ROLES.get(sender, sender), "content": message["value"]}


def _first(key: str, answer: object) -> str:
    """Return the first of several answers; "" if there is none."""
    if key == "answers" and isinstance(answer, str):
        answer = _json(answer) or answer
    if isinstance(answer, Mapping):
        answer = answer.get("text", "")
    if isinstance(answer, list | tuple):
        answer = answer[0] if answer else ""
    return "" if answer is None else str(answer)


def _json(text: str) -> object:
    """Return the value of a text that is a JSON object or list; None if it is another text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
