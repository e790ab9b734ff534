"""Separate the tool calls in a model's answer from its content."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

from langchain_sift.language_models.chat_templates.tools import Tool
from langchain_sift.language_models.structured_output.tool_call_formats import (
    MALFORMED,
    MISTRAL,
    PYTHON_LIST,
    ParsedCall,
    Schemas,
    call_from_json,
    check_numbers,
    closing_bracket,
    fail,
    parse_json,
    parse_python,
    parse_value,
    parse_xml,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ParsedAnswer(NamedTuple):
    """The content of an answer, and the tool calls in it."""

    content: str
    calls: list[ToolCall]
    invalid: list[InvalidToolCall]


CLOSING_MARKERS = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen
    "<|tool_call|>": "<|/tool_call|>",  # Phi-4
    "[TOOL_CALLS]": "[/TOOL_CALLS]",  # Mistral; few of its models write the closing marker
    "<|python_tag|>": "<|eom_id|>",  # Llama 3.1
    "<|python_start|>": "<|python_end|>",  # Llama 4
    "<function=": "</tool_call>",  # Qwen3-Coder sometimes forgets the opening <tool_call>
}
"""The markers after calls, by those before them."""

_OPENING = re.compile(
    rf"(?P<marker>{'|'.join(map(re.escape, CLOSING_MARKERS))})\s*"
    r"|^[ \t]*(?:```(?P<fence>tool_code|json)\b\s*|(?=[`{\[]))",
    re.MULTILINE,
)
_LOOKAHEAD = 400


class ToolCallReader:
    """Separates tool calls from content, in all common formats.

    After a marker such as `<tool_call>` there is a call, or an invalid call that carries the
    reason. JSON, a list of Python calls or a fenced block is a call only if it names given tools.
    """

    def __init__(
        self, tools: Sequence[Tool], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        """Prepare to read the answers of one model.

        Args:
            tools: The tools that the model may call. Without tools, all text is content.
            tokenizer: The model's tokenizer. Its special tokens, except the markers of calls, are
                removed from the content. Its `response_template`, if any, takes precedence.
        """
        self._tools = tools
        self._tokenizer = tokenizer
        self._schemas = _schemas(tools)
        self._openings = _openings(self._schemas)
        self._special = special_tokens(tokenizer, but=CLOSING_MARKERS) if tools else []
        self._unwanted = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")

    def read(self, text: str) -> ParsedAnswer:
        """Separate the calls in a complete answer from its content.

        Args:
            text: The answer, with the special tokens that mark calls, such as Mistral's.
        """
        by_template = self._read_by_template(text, complete=True) if self._tools else None
        if by_template and by_template[1]:
            content, calls = by_template
            return ParsedAnswer(self._plain(content).rstrip(), with_ids(calls), [])
        pieces: list[str] = []
        calls = []
        invalid: list[InvalidToolCall] = []
        done = position = 0
        while self._tools and (opening := _OPENING.search(text, position)):
            try:
                parsed, end = self._calls_at(text, opening)
                calls += parsed
            except MALFORMED as error:
                if not opening["marker"]:
                    position = max(opening.end(), opening.start() + 1)
                    continue
                call, end = _invalid_call(text, opening, error)
                invalid.append(call)
            pieces.append(self._plain(text[done : opening.start()]).rstrip())
            done = position = end
        if not pieces:
            return ParsedAnswer(self._plain(text), [], [])
        content = "".join([*pieces, self._plain(text[done:]).rstrip()])
        content = content if pieces[0] else content.lstrip()
        return ParsedAnswer(content, with_ids(calls), invalid)

    def certain_content(self, text: str) -> str:
        """Return the beginning of an incomplete answer that is content in any case.

        The rest may be the beginning of a call or of a special token.
        """
        if not self._tools:
            return text
        marks = [*CLOSING_MARKERS, *self._special]
        tail = range(max(0, len(text) - max(map(len, marks))), len(text))
        partial_marks = (n for n in tail if any(mark.startswith(text[n:]) for mark in marks))
        safe = next(partial_marks, len(text))
        for opening in _OPENING.finditer(text):
            if opening["marker"] or self._may_begin_call(text, opening.start()):
                safe = min(safe, opening.start())
                break
        by_template = self._read_by_template(text, complete=False)
        if by_template:
            content = by_template[0]
            safe = min(safe, len(content) if text.startswith(content) else 0)
        # The white space before a call is not content.
        return self._plain(text[:safe]).rstrip()

    def _calls_at(self, text: str, opening: re.Match[str]) -> tuple[list[ParsedCall], int]:
        """Parse the calls after an opening, and return them with the index after them."""
        marker, fence = opening["marker"], opening["fence"]
        if not marker and not self._may_begin_call(text, opening.start()):
            fail("no call begins like this")
        start = opening.start() if marker == "<function=" else opening.end()
        calls, end = self._parse(text, start, marker=marker, fence=fence)
        if not calls or not (marker or self._schemas.keys() >= {call.name for call in calls}):
            fail("no call of a tool")
        check_numbers(calls)
        # Small models close too many brackets.
        closing = r"\s*```" if fence else ""
        if marker:
            closing = r"[\s}\])]*" + re.escape(CLOSING_MARKERS[marker])
        closed = re.compile(closing).match(text, end)
        return calls, closed.end() if closed else end

    def _parse(
        self, text: str, start: int, *, marker: str | None, fence: str | None
    ) -> tuple[list[ParsedCall], int]:
        """Parse calls in the format in which they begin."""
        if fence == "tool_code":
            end = start + len(text[start:].partition("```")[0])
            return parse_python(text[start:end].strip(), self._schemas), end
        if text.startswith("<function=", start):
            return parse_xml(text, start, self._schemas)
        if PYTHON_LIST.match(text, start):
            end = closing_bracket(text, start)
            return parse_python(text[start:end], self._schemas), end
        if marker and (named := MISTRAL.match(text, start)):
            args, end = parse_value(text, named.end())
            return [call_from_json({"name": named[1], "arguments": args, "id": named[2]})], end
        return parse_json(text, start, bare=not marker)

    def _may_begin_call(self, text: str, start: int) -> bool:
        begun = re.sub(r"\s+", "", text[start : start + _LOOKAHEAD])
        return any(begun.startswith(known) or known.startswith(begun) for known in self._openings)

    def _read_by_template(
        self, text: str, *, complete: bool
    ) -> tuple[str, list[ParsedCall]] | None:
        """Parse an answer by the tokenizer's response template, if it has one.

        Returns:
            The content and the calls; of an incomplete answer, the content before anything else.
            None if the tokenizer has no template or the template does not match.
        """
        tokenizer = self._tokenizer
        if tokenizer is None or getattr(tokenizer, "response_template", None) is None:
            return None
        calls: list[ParsedCall] = []
        try:
            tools: list[Any] = [dict(tool) for tool in self._tools]
            parser = tokenizer.get_response_parser(prefix="", tools=tools)
            events = parser.feed(text)
            if complete:
                message, last = parser.finalize()
                events = [event for event in [*events, *last] if event["field"] == "content"]
                calls = [call_from_json(call) for call in message.get("tool_calls", ())]
            leading = itertools.takewhile(lambda event: event["field"] == "content", events)
            content = "".join(event.get("text", "") for event in leading)
            check_numbers(calls)
            return content.rstrip(), calls
        except MALFORMED:
            return None

    def _plain(self, text: str) -> str:
        return self._unwanted.sub("", text)


def _schemas(tools: Sequence[Tool]) -> Schemas:
    """Return the properties of each tool's arguments by the tool's name."""
    functions = [tool["function"] for tool in tools]
    return {
        function["name"]: (function.get("parameters") or {}).get("properties") or {}
        for function in functions
    }


def _openings(names: Iterable[str]) -> list[str]:
    """Return how calls without a marker begin, white space left out."""
    keys = ['"type":"function"', '"function":', '"arguments":', '"parameters":']
    keys += ['"name":"' + re.sub(r"\s+", "", name) + '"' for name in names]
    objects = ["{" + key for key in keys]
    values = [*objects, *("[" + begun for begun in objects)]
    fenced = ["```tool_code", *("```json" + begun for begun in values)]
    return [*values, *fenced, *(f"[{name}(" for name in names)]


def special_tokens(tokenizer: PreTrainedTokenizerBase | None, *, but: Iterable[str]) -> list[str]:
    """Return the special tokens that are no part of a call, such as the end of a turn.

    Args:
        tokenizer: The model's tokenizer. None means that there are none.
        but: The tokens that mark calls.
    """
    known = tokenizer.added_tokens_decoder.values() if tokenizer is not None else ()
    special = {token.content for token in known if token.special}
    return sorted(special - {*but}, key=len, reverse=True)


def _invalid_call(
    text: str, opening: re.Match[str], error: BaseException
) -> tuple[InvalidToolCall, int]:
    """Return the malformed text after a marker as an invalid call, and the index after it."""
    closing = CLOSING_MARKERS[opening["marker"]]
    stops = "|".join(map(re.escape, [closing, *CLOSING_MARKERS.keys() - {"<function="}]))
    payload = re.split(stops, text[opening.end() :], maxsplit=1)[0]
    end = opening.end() + len(payload)
    if text.startswith(closing, end):
        end += len(closing)
    # With the marker: LangChain completes streamed JSON, and would make a valid call of it.
    return invalid_from(text[opening.start() : end], error), end


def invalid_from(text: str, error: BaseException) -> InvalidToolCall:
    """Return an invalid call whose arguments are its text."""
    name = re.search(r'"name"\s*:\s*"([^"\\]+)"', text)
    return invalid_tool_call(
        name=name[1] if name else None,
        args=text.strip(),
        id=f"call_{uuid.uuid4().hex}",
        error=str(error) or type(error).__name__,
    )


def with_ids(calls: Sequence[ParsedCall]) -> list[ToolCall]:
    """Convert the calls to LangChain's, each with a unique id."""
    used = {""}
    identified = []
    for call in calls:
        identifier = f"call_{uuid.uuid4().hex}" if call.id in used else call.id
        used.add(identifier)
        identified.append(tool_call(name=call.name, args=call.args, id=identifier))
    return identified
