"""Describe how calls of tools begin, go on and end, for grammars that force them and for readers.

A call begins where a text spells its opening mark, such as `<tool_call>`. A call without a mark
begins where the text names a tool as a call does, as in `{"name": "search"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from langchain_sift.language_models.chat_templates.template_probes import (
    CallForm,
    call_form,
    ordinary_names,
)
from langchain_sift.language_models.chat_templates.tools import Tool
from langchain_sift.ttft.model.control_tokens import control_tokens
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

BARE = CallForm('{"name": "', '", "arguments": ', "}")
"""The form that our prompts describe if the template has no place for tools."""

# The forms that models write which were trained with other templates.
_KNOWN = (
    CallForm('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),  # Hermes, Qwen
    CallForm('<|tool_call|>[{"name": "', '", "arguments": ', "}]<|/tool_call|>"),  # Phi-4
    CallForm('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]"),  # Mistral
    CallForm('<|python_tag|>{"name": "', '", "parameters": ', "}"),  # Llama 3.1
    CallForm('<|python_start|>{"name": "', '", "parameters": ', "}<|python_end|>"),  # Llama 4
    CallForm("<function=", ">", "</function>"),
    CallForm("```tool_code\n", "(**", ")\n```"),  # Gemma
    CallForm("[", "(**", ")]"),  # Llama 4 and others, in Python
    BARE,
)
_BRACKETS = re.compile(r"[\[\s]*(?:\{[^{}]*)?\Z")


class Opening(NamedTuple):
    """The beginning of a call, before the name of the tool."""

    mark: str
    """Distinguishes a call from text; empty if only the tool's name does."""

    rest: str
    """What follows up to the name."""


@once_per_tokenizer
def call_forms(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[CallForm, Opening], ...]:
    """Return the forms of calls and their openings: that of the template, and other known ones."""
    own = call_form(tokenizer)
    forms: dict[Opening, CallForm] = {}
    for form in (own, *_KNOWN) if own else _KNOWN:
        opening = _opening(tokenizer, form)
        marks = {known.mark for known in forms}
        is_new = opening.mark not in marks if opening.mark else opening not in forms
        if is_new:
            forms[opening] = form
    return tuple((form, opening) for opening, form in forms.items())


def spelled_name(tool: Tool) -> str:
    """Return a tool's name as it stands in JSON."""
    return json.dumps(tool["function"]["name"], ensure_ascii=False)[1:-1]


def call_starts(form: CallForm, opening: Opening, tools: Sequence[Tool]) -> list[str]:
    """Return the texts with which a call starts: the mark, or a text for each tool."""
    if opening.mark:
        return [opening.mark]
    return [opening.rest + spelled_name(tool) + form.between[:1] for tool in tools]


def pattern_of(opening: Opening, text: str) -> str:
    """Return the pattern of a text with which a call starts."""
    rest = flexible(text.removeprefix(opening.mark))
    return (
        rf"{re.escape(opening.mark)}\s*{rest}"
        if opening.mark and rest
        else (re.escape(opening.mark) + rest)
    )


def flexible(text: str) -> str:
    """Return a pattern of a text with any white space around its brackets, commas and colons."""
    pieces = re.split(r"\s*([\[{:,])\s*|\s+", text)
    return r"\s*".join(re.escape(piece) for piece in pieces if piece)


def _opening(tokenizer: PreTrainedTokenizerBase, form: CallForm) -> Opening:
    """Split what comes before a name: a control token is a mark if only calls contain it.

    Other control tokens are marks only with the words after them.
    """
    text = form.opening.lstrip()
    usual = ordinary_names(tokenizer)
    for name in control_tokens(tokenizer).names_in(text):
        if name not in usual:
            return Opening(name, text.partition(name)[2])
    last = ["", *control_tokens(tokenizer).names_in(text)][-1]
    tail = text.rpartition(last)[2] if last else text
    brackets = _BRACKETS.search(tail)
    start = brackets.start() if brackets else len(tail)
    words = tail[:start]
    return Opening(last + words if words.strip() else "", tail[start:])
