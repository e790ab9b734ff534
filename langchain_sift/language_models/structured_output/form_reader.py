"""Read the calls of answers that follow a grammar of calls."""

from __future__ import annotations

import re
from collections.abc import Sequence

from langchain_core.messages import InvalidToolCall
from transformers import PreTrainedTokenizerBase

from langchain_sift.language_models.chat_templates.template_probes import PROBE_ID
from langchain_sift.language_models.chat_templates.tools import Tool
from langchain_sift.language_models.structured_output.call_forms import (
    call_forms,
    call_starts,
    flexible,
    pattern_of,
    spelled_name,
)
from langchain_sift.language_models.structured_output.tool_call_formats import (
    MALFORMED,
    ParsedCall,
    fail,
    parse_arguments,
)
from langchain_sift.language_models.structured_output.tool_calls import (
    CLOSING_MARKERS,
    ParsedAnswer,
    invalid_from,
    special_tokens,
    with_ids,
)

# A grammar may end a call before the mark that ends it.
_CLOSED = rf"(?:\s*(?:{'|'.join(map(re.escape, set(CLOSING_MARKERS.values())))}))?"


class FormReader:
    """Separates calls from content where the grammar of the answer made the calls.

    A call begins where the grammar began one, in one of the `call_forms`; everything else is
    content, also what looks like a call in another form. A call that `max_tokens` cut is invalid.
    """

    def __init__(self, tools: Sequence[Tool], tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare to read the answers of one model.

        Args:
            tools: The tools that the model may call, at least one.
            tokenizer: The model's tokenizer. Its special tokens are removed from the content.
        """
        forms = call_forms(tokenizer)
        self._names = {spelled_name(tool): tool["function"]["name"] for tool in tools}
        name = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._forms = [
            re.compile(
                rf"{pattern_of(opening, opening.mark + opening.rest)}\s*(?P<name>{name})"
                rf"\s*{flexible(form.between)}\s*"
            )
            for form, opening in forms
        ]
        identifier = r"\s*(?P<id>[A-Za-z0-9]{9})\s*"
        self._closings = [
            re.compile(
                rf"\s*{identifier.join(map(flexible, form.closing.split(PROBE_ID)))}{_CLOSED}"
            )
            for form, _ in forms
        ]
        starts = [
            (opening, text) for form, opening in forms for text in call_starts(form, opening, tools)
        ]
        self._beginnings = re.compile("|".join(pattern_of(*each) for each in starts))
        special = special_tokens(tokenizer, but=[opening.mark for _, opening in forms])
        marks = [*(re.sub(r"\s+", "", text) for _, text in starts), *special]
        self._longest = max(map(len, marks))
        self._prefixes = {mark[:end] for mark in marks for end in range(1, len(mark))}
        self._unwanted = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def read(self, text: str) -> ParsedAnswer:
        """Separate the calls in a complete answer from its content."""
        pieces: list[str] = []
        calls: list[ParsedCall] = []
        invalid: list[InvalidToolCall] = []
        done = 0
        while beginning := self._beginnings.search(text, done):
            pieces.append(self._plain(text[done : beginning.start()]).rstrip())
            try:
                call, done = self._call_at(text, beginning.start())
                calls.append(call)
            except MALFORMED as error:
                invalid.append(invalid_from(text[beginning.start() :], error))
                done = len(text)
        if not pieces:
            return ParsedAnswer(self._plain(text), [], [])
        content = "".join([*pieces, self._plain(text[done:]).rstrip()])
        return ParsedAnswer(content if pieces[0] else content.lstrip(), with_ids(calls), invalid)

    def certain_content(self, text: str) -> str:
        """Return the beginning of an incomplete answer that is content in any case."""
        beginning = self._beginnings.search(text)
        safe = beginning.start() if beginning else self._partial(text)
        return self._plain(text[:safe]).rstrip()

    def _partial(self, text: str) -> int:
        """Return the index from which a text may be the beginning of a call or special token."""
        end = re.sub(r"\s+", "", text[-4 * self._longest :])
        lengths = range(min(self._longest, len(end)), 0, -1)
        left = next((n for n in lengths if end[-n:] in self._prefixes), 0)
        start = len(text)
        while left:
            start -= 1
            left -= not text[start].isspace()
        return start

    def _call_at(self, text: str, start: int) -> tuple[ParsedCall, int]:
        """Parse the call that begins at an index, and return it with the index after it."""
        for form, closing in zip(self._forms, self._closings, strict=True):
            if begun := form.match(text, start):
                args, end = parse_arguments(text, begun.end())
                closed = closing.match(text, end) or fail("the call is not complete")
                identifier = closed.groupdict().get("id") or ""
                return ParsedCall(self._names[begun["name"]], args, identifier), closed.end()
        return fail("the call is not complete")

    def _plain(self, text: str) -> str:
        return self._unwanted.sub("", text)
