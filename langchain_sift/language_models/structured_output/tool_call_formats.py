"""Parse one tool call in JSON, XML, Python or Mistral syntax."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

Schemas = Mapping[str, Mapping[str, object]]
"""The JSON schemas of each tool's arguments, by the tool's name."""

# The exceptions that `json`, `ast` and the parsers below raise for malformed calls or schemas.
MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError),
)
PYTHON_LIST = re.compile(r"\[\s*[\w.]+\s*\(")
MISTRAL = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*([\w-]+)\s*)?(?:\[ARGS\]\s*)?(?=\{)")

_PYTHON_DICT = re.compile(r"[\[\s]*\{\s*'")
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NEXT_OBJECT = re.compile(r"\s*(?:;\s*)?(?=\{)")
# An unterminated string extends to the end of the text.
_TOKEN = re.compile(
    r"""[\[\](){}]|"(?:\\.|[^"\\])*(?:"|\\?\Z)|'(?:\\.|[^'\\])*(?:'|\\?\Z)""", re.DOTALL
)


def _finite(text: str) -> float:
    """Return the nearest finite number: 1e999 is valid JSON, and no float has its value."""
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


# Models write line breaks into strings.
_DECODER = json.JSONDecoder(strict=False, parse_float=_finite)
_JSON_NAMES = {"true": True, "false": False, "null": None}


class ParsedCall(NamedTuple):
    """A tool call as the model wrote it."""

    name: str
    args: dict[str, object]
    id: str = ""
    """The model's identifier; empty if it wrote none."""


def parse_json(text: str, start: int, *, bare: bool) -> tuple[list[ParsedCall], int]:
    """Parse a list of calls, or several calls one after another as Llama writes them.

    Args:
        text: The model's answer.
        start: Index of the first character of the calls.
        bare: If True, each call must have arguments: no marker precedes it, and an object with a
            name alone may be ordinary JSON.

    Returns:
        The calls, and the index after the last of them.
    """
    value, end = parse_value(text, start)
    values = value if isinstance(value, list) else [value]
    while following := _NEXT_OBJECT.match(text, end):
        try:
            value, end = _DECODER.raw_decode(text, following.end())
        except (ValueError, RecursionError):
            break
        values.append(value)
    return [call_from_json(value, bare=bare) for value in values], end


def parse_value(text: str, start: int) -> tuple[Any, int]:
    """Parse a value in JSON or in Python syntax, and return it with the index after it."""
    if _PYTHON_DICT.match(text, start):
        end = closing_bracket(text, start)
        return _evaluate(text[start:end]), end
    return _DECODER.raw_decode(text, start)


def parse_arguments(text: str, start: int) -> tuple[dict[str, object], int]:
    """Parse a JSON object, and return it with the index after it."""
    args, end = _DECODER.raw_decode(text, start)
    if not isinstance(args, dict):
        fail("the arguments are no JSON object")
    return args, end


def call_from_json(value: Any, *, bare: bool = False) -> ParsedCall:
    """Convert a JSON object to a call; see `parse_json` for `bare`."""
    inner = value.get("function") if isinstance(value, dict) else None
    value = {**value, **inner} if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not (value.get("name") and isinstance(value["name"], str)):
        fail("no JSON object with the name of a tool")
    args = value["arguments"] if "arguments" in value else value.get("parameters")
    if isinstance(args, str) and args.strip():
        args = _DECODER.decode(args)
    if not args and not bare:
        args = {}
    if not isinstance(args, dict):
        fail("the arguments are no JSON object")
    identifier = value.get("id")
    return ParsedCall(value["name"], args, identifier if isinstance(identifier, str) else "")


def parse_xml(text: str, start: int, schemas: Schemas) -> tuple[list[ParsedCall], int]:
    """Parse `<function=name>` with parameters in tags, or with JSON as Llama 3.1 writes it."""
    function = _FUNCTION.match(text, start)
    if function is None:
        fail("no </function> follows")
    name, body = function[1], function[2]
    if body.lstrip().startswith("{"):
        return [call_from_json({"name": name, "arguments": body})], function.end()
    schema = schemas.get(name, {})
    args = {key: _convert(value, schema.get(key)) for key, value in _PARAMETER.findall(body)}
    return [ParsedCall(name, args)], function.end()


def parse_python(code: str, schemas: Schemas) -> list[ParsedCall]:
    """Parse calls in Python syntax; only literals are evaluated."""
    calls = []
    for statement in ast.parse(_escape_backslashes(code)).body:
        value = getattr(statement, "value", None)
        nodes = value.elts if isinstance(value, ast.List) else [value]
        calls += [_call_from_python(node, schemas) for node in nodes]
    return calls


def closing_bracket(text: str, start: int) -> int:
    """Return the index after the bracket that closes the one at `start`, or `start` if unclosed."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(token[0], 0)
        if depth <= 0:
            return token.end()
    return start


def check_numbers(calls: Sequence[ParsedCall]) -> None:
    """Reject NaN and infinity: `json` parses them, but they are not valid JSON."""
    json.dumps([call.args for call in calls], allow_nan=False)


def fail(reason: str) -> NoReturn:
    """Raise the error of a malformed call."""
    raise ValueError(reason)


def _convert(text: str, schema: Any) -> Any:
    """Convert an unquoted argument to the type in its schema."""
    options = schema.get("anyOf", [schema]) if isinstance(schema, Mapping) else []
    types = json.dumps([option.get("type") for option in options])
    if '"' not in types or '"string"' in types:
        return text
    for parse in (_DECODER.decode, _evaluate):
        with contextlib.suppress(*MALFORMED):
            return parse(text.strip())
    return text


def _call_from_python(node: Any, schemas: Schemas) -> ParsedCall:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and len(node.args) == 1:
        node = node.args[0]
    if not isinstance(node, ast.Call):
        fail("no call")
    name = ast.unparse(node.func)
    keys = [*schemas.get(name, ())][: len(node.args)]
    keys += [keyword.arg for keyword in node.keywords if keyword.arg]
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    if len(set(keys)) < len(values):
        fail("an argument has no name, or the name of another argument")
    return ParsedCall(name, dict(zip(keys, map(_literal, values), strict=True)))


class _JsonNames(ast.NodeTransformer):
    """Replaces `true`, `false` and `null`, which models write into Python."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node


def _evaluate(code: str) -> Any:
    return _literal(ast.parse(_escape_backslashes(code), mode="eval").body)


def _literal(node: ast.expr) -> Any:
    # JSON turns tuples into lists and rejects bytes and sets, which no tool accepts.
    return json.loads(json.dumps(ast.literal_eval(_JsonNames().visit(node))))


def _escape_backslashes(code: str) -> str:
    """Double the backslashes that escape nothing, as in regular expressions: Python warns."""
    valid = r"(\\[\\'\"abfnrtvxuUN0-7\n])"
    return re.sub(valid + r"|\\", lambda match: match[1] or r"\\", code)
