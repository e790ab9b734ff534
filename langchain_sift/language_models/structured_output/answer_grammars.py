"""Write the grammars of answers that call tools or follow a schema, in the syntax of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import ReasoningMarkers
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import call_opening
from langchain_sift.language_models.chat_templates.template_probes import (
    PROBE_ID,
    CallForm,
    call_form,
)
from langchain_sift.language_models.chat_templates.tools import Tool
from langchain_sift.language_models.structured_output.call_forms import (
    BARE,
    Opening,
    call_forms,
    call_starts,
    pattern_of,
    spelled_name,
)
from langchain_sift.language_models.structured_output.schema_parts import only_objects
from langchain_sift.language_models.structured_output.supported_schemas import (
    JSONSchema,
    nearest_supported,
    supported_schema,
)
from langchain_sift.ttft.model.reasoning_markers import may_reason

_TEXT = r"TEXT: /(.|\n)*/"
_SPACE = r"SPACE: /\n{0,2}/"
_ID = "/[A-Za-z0-9]{9}/"


def required_call_grammar(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool],
    reasoning: ReasoningMarkers | None,
) -> str:
    """Return the grammar of an answer that is one call, after reasoning if the model reasons.

    Args:
        tokenizer: The model's tokenizer.
        tools: The tools, of which the call is one.
        reasoning: Markers of the reasoning. None means that there is none. Without it, the answer
            continues the `call_opening` that ends the prompt.
    """
    form = call_form(tokenizer) or BARE
    opening, name = call_opening(tokenizer, tools, reasoning)
    thought, rules = _reasoning(tokenizer, reasoning)
    begun = "" if opening else _literal(tokenizer, form.opening.lstrip())
    names = ["" if name else spelled_name(tool) for tool in tools]
    options = _options(tokenizer, names, form.between)
    call = f"start: {thought} {begun} ({' | '.join(options)}) {_closing(tokenizer, form)}"
    return "\n".join([call, *rules, *_arguments_rules(tools)])


def optional_calls_grammar(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool],
    reasoning: ReasoningMarkers | None,
) -> str | None:
    """Return the grammar of a text in which each call is valid; None if no tool is strict.

    Any text may come before a call and after it. Where a call begins, in any of the
    `call_forms`, it goes on in this form with valid arguments.

    Args:
        tokenizer: The model's tokenizer.
        tools: The tools that the model may call.
        reasoning: Markers of the reasoning, in which no call begins. None means none.
    """
    if not any(is_strict(tool) for tool in tools):
        return None
    thought, rules = _reasoning(tokenizer, reasoning)
    calls: list[str] = []
    taken = _parts(tokenizer, str(tokenizer.eos_token))
    taken += _parts(tokenizer, reasoning.opening) if reasoning and thought else []
    for form, opening in call_forms(tokenizer):
        after = _after_start(tokenizer, tools, form, opening)
        for begin, rest in zip(call_starts(form, opening, tools), after, strict=True):
            pattern = pattern_of(opening, begin).replace("/", r"\/")
            rules.append(f"begun_{len(calls)}[lazy]: TEXT /{pattern}/")
            calls.append(f"begun_{len(calls)} {rest}")
        match _parts(tokenizer, opening.mark):
            case [token] if token.startswith("<["):
                calls.append(f"TEXT {token} {after[0]}")
                taken.append(token)
            case [token, text]:  # the token begins other things as well
                rules.append(f"begun_{len(calls)}[lazy]: {text}")
                calls.append(f"TEXT {token} (begun_{len(calls)} {after[0]})?")
                taken.append(token)
    others = [n for n in tokenizer.added_tokens_decoder if f"<[{n}]>" not in taken]
    if others:
        calls.append(f"TEXT <[{','.join(map(str, others))}]>")
    start = f"start: {thought} ({' | '.join(calls)})* TEXT"
    return "\n".join([start, *rules, *_arguments_rules(tools)])


def _after_start(
    tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool], form: CallForm, opening: Opening
) -> list[str]:
    """Return what follows each of the texts of `call_starts`."""
    closing = _closing(tokenizer, form)
    if not opening.mark:  # the start contains the name and the first character after it
        options = _options(tokenizer, [""] * len(tools), form.between[1:])
        return [f"{option} {closing}" for option in options]
    options = _options(tokenizer, [spelled_name(tool) for tool in tools], form.between)
    return [f"{_literal(tokenizer, opening.rest)} ({' | '.join(options)}) {closing}"]


def format_grammar(
    tokenizer: PreTrainedTokenizerBase, schema: JSONSchema, reasoning: ReasoningMarkers | None
) -> str:
    """Return the grammar of JSON that follows a schema, after reasoning if the model reasons.

    Args:
        tokenizer: The model's tokenizer.
        schema: The schema, as `supported_schema` returns it.
        reasoning: Markers of the reasoning. None means that there is none.
    """
    thought, rules = _reasoning(tokenizer, reasoning)
    return "\n".join([f"start: {thought} answer", f"answer: %json {json.dumps(schema)}", *rules])


def _reasoning(
    tokenizer: PreTrainedTokenizerBase, reasoning: ReasoningMarkers | None
) -> tuple[str, list[str]]:
    """Return what stands for the reasoning in a rule, nothing if there is none, and its rules."""
    if reasoning is None or not may_reason(tokenizer, reasoning):
        return "", [_TEXT]
    opening = "" if reasoning.begun else _literal(tokenizer, reasoning.opening)
    lazy = "" if reasoning.closing in tokenizer.added_tokens_encoder else "[lazy]"
    rules = [
        f"reasoning: {opening} thought SPACE",
        f"thought{lazy}: TEXT {_literal(tokenizer, reasoning.closing)}",
    ]
    return "reasoning" if reasoning.begun else "reasoning?", [*rules, _TEXT, _SPACE]


def check_schemas(tools: Sequence[Tool]) -> None:
    """Check that the calls of strict tools can be held to their schemas.

    Raises:
        ArgumentError: If no decoder supports a schema; the message names the keyword.
    """
    for tool in tools:
        if is_strict(tool):
            _arguments(tool)


def without_strict(tools: Sequence[Tool]) -> list[Tool]:
    """Return the tools as templates describe them."""
    described: list[Any] = []
    for tool in tools:
        function = {key: value for key, value in tool["function"].items() if key != "strict"}
        described.append({**tool, "function": function})
    return described


def is_strict(tool: Tool) -> bool:
    """Return True if the arguments of a tool's calls must follow its schema."""
    return bool(tool["function"].get("strict"))


def _arguments(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments; if it need not be strict, the nearest supported."""
    parameters: Any = tool["function"].get("parameters") or {}
    schema = {**parameters, "type": "object"}
    if not is_strict(tool):
        return nearest_supported(schema)
    if not only_objects(parameters):
        raise ArgumentError(
            f"the tool {tool['function']['name']!r}: the arguments of a call are an object, and "
            "its schema describes other values: make them a property of an object, or use "
            'with_structured_output(..., method="json_schema")'
        )
    try:
        return supported_schema(schema)
    except ArgumentError as error:
        raise ArgumentError(f"the tool {tool['function']['name']!r}: {error}") from error


def _arguments_rules(tools: Sequence[Tool]) -> list[str]:
    return [f"arguments_{n}: %json {json.dumps(_arguments(tool))}" for n, tool in enumerate(tools)]


def _options(tokenizer: PreTrainedTokenizerBase, names: Sequence[str], between: str) -> list[str]:
    """Return what may follow an opening, for each tool: its name, `between`, and its arguments."""
    rest = _literal(tokenizer, between)
    return [f"{json.dumps(name)} {rest} arguments_{n}" for n, name in enumerate(names)]


def _closing(tokenizer: PreTrainedTokenizerBase, form: CallForm) -> str:
    return f" {_ID} ".join(_literal(tokenizer, part) for part in form.closing.split(PROBE_ID))


def _literal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return " ".join(_parts(tokenizer, text))


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return a text as Lark writes it: tokens that the tokenizer does not split by their ids."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    longest_first = sorted(added, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})" if added else "(?!)", text)
    return [f"<[{added[part]}]>" if part in added else json.dumps(part) for part in parts if part]
