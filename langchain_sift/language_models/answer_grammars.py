"""Write the grammars of answers that call tools or follow a schema, in the syntax of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import ReasoningMarkers
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer_formats import JSONSchema, supported_schema
from langchain_sift.language_models.chat_templates import PROBE_ID, CallForm, call_form
from langchain_sift.language_models.tools import Tool

# Any model can be led to write this, and `ToolCallReader` reads it from any model.
_BARE = CallForm('{"name": "', '", "arguments": ', "}")
_TEXT = r"TEXT: /(.|\n)*/"
_ID = "/[A-Za-z0-9]{9}/"


def call_grammar(
    tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool], *, must_call: bool
) -> str | None:
    """Return the grammar of an answer that may or must call a tool; None means any text.

    If a call is required, the answer is one call, and continues the `call_opening` that ends the
    prompt. Otherwise the answer is any text in which each call is valid, if a tool is strict and
    the template writes calls in JSON.

    Args:
        tokenizer: The model's tokenizer.
        tools: The tools that the model may call.
        must_call: If True, the answer is a call.
    """
    form = call_form(tokenizer, tools)
    if must_call and form is None:
        rules = [f"start: {_literal(tokenizer, _BARE.opening)} call"]
        return "\n".join([*rules, *_call(tokenizer, tools, _BARE)])
    if must_call and form is not None:
        return "\n".join(["start: call", *_call(tokenizer, tools, form, named=len(tools) == 1)])
    if form is None or not any(_is_strict(tool) for tool in tools):
        return None
    opening = _literal(tokenizer, form.opening.strip())
    # A text begins a call as soon as it spells the opening, a token by itself.
    lazy = "" if opening.startswith("<[") else "[lazy]"
    others = [
        str(token)
        for token in tokenizer.added_tokens_decoder
        if token != tokenizer.eos_token_id and not opening.startswith(f"<[{token}]>")
    ]
    other = f" | TEXT <[{','.join(others)}]>" if others else ""
    rules = [
        f"start: (begun call{other})* TEXT",
        f"begun{lazy}: TEXT {opening}",
        _TEXT,
    ]
    return "\n".join([*rules, *_call(tokenizer, tools, form)])


def format_grammar(
    tokenizer: PreTrainedTokenizerBase, schema: JSONSchema, reasoning: ReasoningMarkers | None
) -> str:
    """Return the grammar of JSON that follows a schema, after reasoning if the model reasons.

    Args:
        tokenizer: The model's tokenizer.
        schema: The schema, as `supported_schema` returns it.
        reasoning: Markers of the reasoning. None means that there is none.
    """
    json_rule = f"answer: %json {json.dumps(schema)}"
    known = tokenizer.added_tokens_encoder
    if reasoning is None or not (reasoning.begun or reasoning.opening in known):
        return "\n".join(["start: answer", json_rule])
    opening = "" if reasoning.begun else _literal(tokenizer, reasoning.opening)
    lazy = "" if reasoning.closing in known else "[lazy]"
    return "\n".join(
        [
            f"start: {'reasoning' if reasoning.begun else 'reasoning?'} answer",
            f"reasoning: {opening} thought SPACE",
            f"thought{lazy}: TEXT {_literal(tokenizer, reasoning.closing)}",
            _TEXT,
            "SPACE: /\\n{0,2}/",
            json_rule,
        ]
    )


def check_schemas(tools: Sequence[Tool]) -> None:
    """Check that the calls of strict tools can be held to their schemas.

    Raises:
        ArgumentError: If no decoder supports a schema; the message names the keyword.
    """
    for tool in tools:
        if _is_strict(tool):
            _arguments(tool)


def without_strict(tools: Sequence[Tool]) -> list[Tool]:
    """Return the tools as templates describe them."""
    described: list[Any] = []
    for tool in tools:
        function = {key: value for key, value in tool["function"].items() if key != "strict"}
        described.append({**tool, "function": function})
    return described


def _is_strict(tool: Tool) -> bool:
    return bool(tool["function"].get("strict"))


def _arguments(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments; any object if no decoder supports it."""
    parameters: Any = tool["function"].get("parameters") or {}
    try:
        return supported_schema({"type": "object", **parameters})
    except ArgumentError as error:
        if _is_strict(tool):
            raise ArgumentError(f"the tool {tool['function']['name']!r}: {error}") from error
        return supported_schema({"type": "object"})


def _call(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool],
    form: CallForm,
    *,
    named: bool = False,
) -> list[str]:
    """Return the rules of a call after its opening; if it is `named`, after its name too."""
    options, rules = [], []
    for number, tool in enumerate(tools):
        begun = ("" if named else tool["function"]["name"]) + form.between
        options.append(f"{_literal(tokenizer, begun)} arguments_{number}")
        rules.append(f"arguments_{number}: %json {json.dumps(_arguments(tool))}")
    closing = f" {_ID} ".join(_literal(tokenizer, part) for part in form.closing.split(PROBE_ID))
    return [f"call: ({' | '.join(options)}) {closing}", *rules]


def _literal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text as Lark writes it: tokens that the tokenizer does not split by their ids."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    if not added:
        return json.dumps(text) if text else ""
    longest_first = sorted(added, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    return " ".join(
        f"<[{added[part]}]>" if part in added else json.dumps(part) for part in parts if part
    )
