"""Read documents that are questions and answers, or conversations: the objective "answer".

The fields of such a document are in its metadata, or its text is JSON of them:

    question, answer        also instruction (with an input), prompt, query, problem, user_input or
                            inputs, and the other names and forms of `Question.of`: of several
                            answers the first counts, of choices the text of the correct one
    messages                a list of {"role": ..., "content": ...}, or of LangChain's messages
    conversations           the same, a list of {"from": "human" or "gpt", "value": ...}, or a list
                            of texts, of the user and the assistant in turn, as in LIMA
    prompt, completion      two such lists, as TRL has them
    system, history         beside messages or an instruction: the system text, as in ShareGPT, and
                            the earlier pairs of an instruction and its answer, as in Alpaca
    system_prompt           the system text beside any of these, as in Orca
    context                 beside a question or an instruction: the passage that it is about, or a
                            list of passages in the order of the prompt; also contexts or passage

An answer with "weight": 0 is read and not learned, as OpenAI has it. Metadata takes precedence, and
then the text is not read. A list in metadata may also be JSON, for stores that hold only texts and
numbers. The text may also be the list of messages itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
    merge_message_runs,
    messages_from_dict,
)

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.questions.field_names import ANSWERS, CHOICES, CORRECT, PASSAGES, QUESTIONS
from langchain_sift.questions.literals import literal
from langchain_sift.questions.question import Question
from langchain_sift.questions.question_fields import question_fields

_QUESTIONS = (
    "question",
    "instruction",
    "prompt",
    "query",
    "problem",
    "user_input",
    "question_text",
    "input",
    "inputs",
)
_CONVERSATIONS = ("messages", "conversations", "conversation")
_PASSAGES = ("context", "contexts", "passage")
_TEXTS_OF_PASSAGES = ("text", "page_content", "contexts", "sentences")
"""Fields of a passage that is an object, as in PubMedQA and HotpotQA."""

_TURNS = ("user", "assistant")
_ASSISTANTS = ("assistant", "ai", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot")
_ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(_ASSISTANTS, "assistant"),
    **{role: role for role in ("system", "developer", "function")},
    **dict.fromkeys(("tool", "observation"), "tool"),
}
"""The role of each sender of a message, in lower case."""

_CONTENTS = ("content", "value", "tool_calls", "function_call")
"""Fields of a message of which each has one."""

_CURE = (
    'give it a "question" and an "answer", or "messages" of which one is the assistant\'s, as JSON '
    "in its text or, in Python, in its metadata; or train with objective='text'"
)


class _MessageError(ValueError):
    """A message has a form that is not known; the error shows at most its sender."""


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
            messages = _messages(fields, name)
        except CorpusError as error:
            raise ArgumentError(f"{error}, or train with objective='text'") from None
        except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
            reason = error if isinstance(error, _MessageError) else type(error).__name__
            raise ArgumentError(
                f"{name} has messages that cannot be read, {reason}: {_CURE}"
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


def passages_of(document: Document) -> list[str]:
    """Return the passages that the question in a document is about; none of a conversation.

    The `context` and the `passage` of a question with choices are a part of the question.

    Args:
        document: One that `conversation_of` can read.
    """
    both = (document.metadata, _json(document.page_content))
    fields: Mapping[str, object] = next(
        (one for one in both if isinstance(one, Mapping) and _messages(one, "") is not None), {}
    )
    asked = question_fields(fields)
    if _turns(fields) is not None:
        return []
    has_choices = any(key in asked for key in CHOICES)
    names = [key for key in _PASSAGES if not (has_choices and key in PASSAGES)]
    return next((texts for key in names if (texts := _texts_in(asked.get(key)))), [])


def _texts_in(value: object) -> list[str]:
    """Return the texts in a passage, or in a list or an object of passages."""
    if isinstance(value, Document):
        value = value.page_content
    if isinstance(value, str):
        read = literal(value) if value.lstrip()[:1] in {"[", "{"} else None
        if not isinstance(read, list | tuple | Mapping):
            return [value] if value.strip() else []
        value = read
    if isinstance(value, Mapping):
        value = next((value[key] for key in _TEXTS_OF_PASSAGES if key in value), None)
        return _texts_in(value)
    passages = value if isinstance(value, list | tuple) else ()
    return [text for passage in passages for text in _texts_in(passage)]


def named(document: Document, index: int) -> str:
    """Return how messages name a document: by its index, and its id if it has one."""
    return f"document {index}" if document.id is None else f"document {index} ({document.id!r})"


def answers_in(messages: Sequence[BaseMessage]) -> list[int]:
    """Return the indices of the answers to learn.

    These are the assistant's messages with a text, but for one that is the first or has no weight.
    """
    return [
        index
        for index, message in enumerate(messages)
        if index > 0 and isinstance(message, AIMessage) and message.text.strip()
        if message.additional_kwargs.get("weight", 1) != 0
    ]


def _messages(fields: object, name: str) -> list[BaseMessage] | None:
    """Return the messages in the fields of a document; None if they have none of the forms."""
    if isinstance(fields, list):
        fields = {"messages": fields}
    if not isinstance(fields, Mapping):
        return None
    turns = _turns(fields)
    if turns is not None:
        return _after_system(fields, _converted(turns), ("system", "system_prompt"))
    pair = _pair(question_fields(fields), name)
    if pair is None:
        return None
    if "instruction" not in fields:
        return _after_system(fields, pair, ("system_prompt",))
    return _after_system(fields, [*_history(fields), *pair], ("system", "system_prompt"))


def _turns(fields: Mapping[str, object]) -> Sequence[Any] | None:
    """Return the turns of a conversation; None if the fields are those of a question."""
    for key in _CONVERSATIONS:
        if (turns := _listed(fields.get(key))) is not None:
            return turns
    prompt, completion = (_listed(fields.get(key)) for key in ("prompt", "completion"))
    return None if prompt is None or completion is None else [*prompt, *completion]


def _after_system(
    fields: Mapping[str, object], messages: list[BaseMessage], names: Sequence[str]
) -> list[BaseMessage]:
    """Return messages after the system text in one of the fields, unless they begin with one."""
    texts = (text for name in names if isinstance(text := fields.get(name), str) and text.strip())
    text = next(texts, None)
    if text is None or (messages and isinstance(messages[0], SystemMessage)):
        return messages
    return [SystemMessage(text), *messages]


def _history(fields: Mapping[str, object]) -> list[BaseMessage]:
    """Return the earlier turns of an instruction: pairs of a text and its answer, or messages.

    A history of another form is none of the conversation.
    """
    turns = _listed(fields.get("history")) or ()
    messages: list[object] = []
    for turn in turns:
        is_pair = isinstance(turn, list | tuple) and len(turn) == 2
        if not is_pair and not isinstance(turn, Mapping):
            return []
        messages += zip(_TURNS, turn, strict=True) if is_pair else [turn]
    return _converted(messages)


def _pair(fields: Mapping[str, object], name: str) -> list[BaseMessage] | None:
    """Return a question and its answer; None without a question, or a field for an answer."""
    # A text or a sentence is a question only if there are choices.
    has_choices = any(key in fields for key in CHOICES)
    asked = (fields.get(key) for key in (*_QUESTIONS, *(QUESTIONS if has_choices else ())))
    question = next((one for one in asked if isinstance(one, str) and one.strip()), None)
    if question is None or not any(key in fields for key in (*ANSWERS, *CORRECT)):
        return None
    return [HumanMessage(question), AIMessage(Question.of(name, fields).reference)]


def _listed(value: object) -> Sequence[Any] | None:
    """Return a list, which may be written as text; None for any other value."""
    value = literal(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    return value if isinstance(value, list | tuple) else None


def _converted(messages: Sequence[Any]) -> list[BaseMessage]:
    if all(isinstance(one, str) for one in messages):
        messages = [*zip(cycle(_TURNS), messages, strict=False)]
    return merge_message_runs(convert_to_messages([_with_role(one) for one in messages]))


def _with_role(message: Any) -> Any:
    """Return a message in the form with roles."""
    if not isinstance(message, Mapping):
        return message
    if "data" in message:  # LangChain's `messages_to_dict`
        return messages_from_dict([dict(message)])[0]
    sender = message.get("role", message.get("from"))
    if sender is None:
        return message
    if not any(key in message for key in _CONTENTS):
        raise _MessageError(f"one of them has none of the fields {', '.join(_CONTENTS)}")
    role = _ROLES.get(str(sender).casefold())
    if role is None:
        raise _MessageError(f"one of them is from {sender!r:.40}, none of {', '.join(_ROLES)}")
    content = message.get("content", message.get("value"))
    others = {key: value for key, value in message.items() if key not in {"from", "value"}}
    unnamed = {"tool_call_id": ""} if role == "tool" else {}  # ShareGPT does not name the call
    return {**unnamed, **others, "role": role, "content": content}


def _json(text: str) -> object:
    """Return the value of a text that is a JSON object or list; None if it is another text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
