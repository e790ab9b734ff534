"""From what a model answers to the calls of tools in it."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]
_Schemas = Mapping[str, Mapping[str, Any]]


class Read(NamedTuple):
    """An answer, taken apart."""

    content: str
    calls: list[ToolCall]
    invalid: list[InvalidToolCall]


class _Call(NamedTuple):
    name: str
    args: dict[str, Any]
    id: str = ""


# What texts and schemas of any kind make `json`, `ast` and the readers below raise.
_MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError),
)
_ENDS = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen
    "<|tool_call|>": "<|/tool_call|>",  # Phi-4
    "[TOOL_CALLS]": "[/TOOL_CALLS]",  # Mistral; few of its models write the end
    "<|python_tag|>": "<|eom_id|>",  # Llama 3.1
    "<|python_start|>": "<|python_end|>",  # Llama 4
    "<function=": "</tool_call>",  # Qwen3-Coder, which at times forgets to open
}
_OPENING = re.compile(
    rf"(?P<marker>{'|'.join(map(re.escape, _ENDS))})\s*"
    r"|^[ \t]*(?:```(?P<fence>tool_code|json)\b\s*|(?=[`{\[]))",
    re.MULTILINE,
)
_PYTHONIC = re.compile(r"\[\s*[\w.]+\s*\(")
_PYTHON_DICT = re.compile(r"[\[\s]*\{\s*'")
_MISTRAL = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*([\w-]+)\s*)?(?:\[ARGS\]\s*)?(?=\{)")
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NEXT_OBJECT = re.compile(r"\s*(?:;\s*)?(?=\{)")
# A string that does not end takes the rest with it.
_TOKEN = re.compile(
    r"""[\[\](){}]|"(?:\\.|[^"\\])*(?:"|\\?\Z)|'(?:\\.|[^'\\])*(?:'|\\?\Z)""", re.DOTALL
)
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings
_JSON_NAMES = {"true": True, "false": False, "null": None}
_LOOKAHEAD = 400


class ToolCallReader:
    """Splits answers into content and calls of tools, in any of the usual formats.

    A marker as `<tool_call>` makes a call of what follows, or an invalid one that says why. JSON,
    a list of Python calls or a fenced block counts where it names given tools alone.
    """

    def __init__(self, tools: Tools, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Prepare to read answers of one model.

        Args:
            tools: Those that it was told of; without any, nothing is a call.
            tokenizer: Its own: special tokens that it has beside the marks of calls are no
                content, and its `response_template`, where it carries one, is asked first.
        """
        self._tools = tools
        self._tokenizer = tokenizer
        self._schemas = _schemas(tools)
        self._openings = _openings(self._schemas)
        self._special = _special_tokens(tokenizer) if tools else []
        self._unwanted = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")

    def read(self, text: str) -> Read:
        """Take a whole answer apart; without calls in it, all of it is content.

        Args:
            text: With the special tokens that mark calls, as Mistral's do.
        """
        told = self._by_response_template(text, whole=True) if self._tools else None
        if told and told[1]:
            return Read(self._plain(told[0]).rstrip(), _with_ids(told[1]), [])
        pieces: list[str] = []
        calls: list[_Call] = []
        invalid: list[InvalidToolCall] = []
        done = position = 0
        while self._tools and (opening := _OPENING.search(text, position)):
            try:
                found, end = self._calls_at(text, opening)
                calls += found
            except _MALFORMED as error:
                if not opening["marker"]:
                    position = max(opening.end(), opening.start() + 1)
                    continue
                call, end = _invalid(text, opening, error)
                invalid.append(call)
            pieces.append(self._plain(text[done : opening.start()]).rstrip())
            done = position = end
        if not pieces:
            return Read(self._plain(text), [], [])
        content = "".join([*pieces, self._plain(text[done:]).rstrip()])
        return Read(content if pieces[0] else content.lstrip(), _with_ids(calls), invalid)

    def certain(self, text: str) -> str:
        """Return with what the content begins, however an answer that begins like this goes on.

        The rest might begin a call, or a special token.
        """
        if not self._tools:
            return text
        marks = [*_ENDS, *self._special]
        tail = range(max(0, len(text) - max(map(len, marks))), len(text))
        begun = (n for n in tail if any(mark.startswith(text[n:]) for mark in marks))
        safe = next(begun, len(text))
        for opening in _OPENING.finditer(text):
            if opening["marker"] or self._may_begin(text, opening.start()):
                safe = min(safe, opening.start())
                break
        told = self._by_response_template(text, whole=False)
        if told:
            safe = min(safe, len(told[0]) if text.startswith(told[0]) else 0)
        # The white space before a call is no content.
        return self._plain(text[:safe]).rstrip()

    def _calls_at(self, text: str, opening: re.Match[str]) -> tuple[list[_Call], int]:
        """Return the calls that begin here and where they end."""
        marker, fence = opening["marker"], opening["fence"]
        if not marker and not self._may_begin(text, opening.start()):
            _fail("no call begins like this")
        start = opening.start() if marker == "<function=" else opening.end()
        named = _MISTRAL.match(text, start) if marker else None
        if fence == "tool_code":
            end = start + len(text[start:].partition("```")[0])
            calls = _read_python(text[start:end].strip(), self._schemas)
        elif text.startswith("<function=", start):
            calls, end = _read_xml(text, start, self._schemas)
        elif _PYTHONIC.match(text, start):
            end = _closing_bracket(text, start)
            calls = _read_python(text[start:end], self._schemas)
        elif named:
            args, end = _read_value(text, named.end())
            calls = [_from_json({"name": named[1], "arguments": args, "id": named[2]})]
        else:
            calls, end = _read_json(text, start, bare=not marker)
        if not calls or not (marker or self._schemas.keys() >= {call.name for call in calls}):
            _fail("no call of a tool")
        _check_numbers(calls)
        # Small models close a bracket too many.
        close = r"[\s}\])]*" + re.escape(_ENDS[marker]) if marker else r"\s*```" if fence else ""
        closing = re.compile(close).match(text, end)
        return calls, closing.end() if closing else end

    def _may_begin(self, text: str, start: int) -> bool:
        begun = re.sub(r"\s+", "", text[start : start + _LOOKAHEAD])
        return any(begun.startswith(known) or known.startswith(begun) for known in self._openings)

    def _by_response_template(self, text: str, *, whole: bool) -> tuple[str, list[_Call]] | None:
        """Return the content and the calls that the tokenizer's own description of answers finds.

        Of an answer that goes on, the content before anything else.
        """
        tokenizer = self._tokenizer
        if tokenizer is None or getattr(tokenizer, "response_template", None) is None:
            return None
        message: dict[str, Any] = {}
        try:
            tools: list[Any] = [dict(tool) for tool in self._tools]
            parser = tokenizer.get_response_parser(prefix="", tools=tools)
            events = parser.feed(text)
            if whole:
                message, last = parser.finalize()
                events = [event for event in [*events, *last] if event["field"] == "content"]
            told = itertools.takewhile(lambda event: event["field"] == "content", events)
            content = "".join(event.get("text", "") for event in told)
            calls = [_from_json(call) for call in message.get("tool_calls", ())]
            _check_numbers(calls)
            return content.rstrip(), calls
        except _MALFORMED:
            return None

    def _plain(self, text: str) -> str:
        return self._unwanted.sub("", text)


# What is told, and how calls of it begin.


def _schemas(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """Return the properties of each tool's arguments by its name."""
    functions = [tool["function"] for tool in tools]
    return {
        function["name"]: (function.get("parameters") or {}).get("properties") or {}
        for function in functions
    }


def _openings(names: Iterable[str]) -> list[str]:
    """Return how calls without a marker begin, white space left out."""
    keys = ['"type":"function"', '"function":', '"arguments":', '"parameters":']
    objects = ["{" + key for key in [*keys, *(f'"name":"{name}"' for name in names)]]
    values = [*objects, *("[" + begun for begun in objects)]
    fenced = ["```tool_code", *("```json" + begun for begun in values)]
    return [*values, *fenced, *(f"[{name}(" for name in names)]


def _special_tokens(tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Return the special tokens that mark no call, as ends of turns."""
    known = tokenizer.added_tokens_decoder.values() if tokenizer is not None else ()
    special = {token.content for token in known if token.special}
    return sorted(special - _ENDS.keys(), key=len, reverse=True)


# The formats.


def _read_json(text: str, start: int, *, bare: bool) -> tuple[list[_Call], int]:
    """Read a list of calls, or calls one after another as Llama writes several."""
    value, end = _read_value(text, start)
    values = value if isinstance(value, list) else [value]
    while following := _NEXT_OBJECT.match(text, end):
        try:
            value, end = _DECODER.raw_decode(text, following.end())
        except (ValueError, RecursionError):
            break
        values.append(value)
    return [_from_json(value, bare=bare) for value in values], end


def _read_value(text: str, start: int) -> tuple[Any, int]:
    """Read a value in JSON, or in Python's way of writing the same."""
    if _PYTHON_DICT.match(text, start):
        end = _closing_bracket(text, start)
        return _evaluated(text[start:end]), end
    return _DECODER.raw_decode(text, start)


def _from_json(value: Any, *, bare: bool = False) -> _Call:
    inner = value.get("function") if isinstance(value, dict) else None
    value = {**value, **inner} if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not (value.get("name") and isinstance(value["name"], str)):
        _fail("no JSON object with the name of a tool")
    args = value["arguments"] if "arguments" in value else value.get("parameters")
    if isinstance(args, str) and args.strip():
        args = _DECODER.decode(args)
    if not args and not bare:
        args = {}
    if not isinstance(args, dict):
        _fail("the arguments are no JSON object")
    given = value.get("id")
    return _Call(value["name"], args, given if isinstance(given, str) else "")


def _read_xml(text: str, start: int, schemas: _Schemas) -> tuple[list[_Call], int]:
    function = _FUNCTION.match(text, start)
    if function is None:
        _fail("no </function> follows")
    name, body = function[1], function[2]
    if body.lstrip().startswith("{"):  # as Llama 3.1 writes it, where asked to
        return [_from_json({"name": name, "arguments": body})], function.end()
    schema = schemas.get(name, {})
    args = {key: _typed(value, schema.get(key)) for key, value in _PARAMETER.findall(body)}
    return [_Call(name, args)], function.end()


def _typed(text: str, schema: Any) -> Any:
    """Return the value of an argument that is written without quotes."""
    options = schema.get("anyOf", [schema]) if isinstance(schema, Mapping) else []
    types = json.dumps([option.get("type") for option in options])
    if '"' not in types or '"string"' in types:
        return text
    for read in (_DECODER.decode, _evaluated):
        with contextlib.suppress(*_MALFORMED):
            return read(text.strip())
    return text


def _read_python(code: str, schemas: _Schemas) -> list[_Call]:
    """Read calls as Python writes them; nothing is evaluated but literals."""
    calls = []
    for statement in ast.parse(_escaped(code)).body:
        value = getattr(statement, "value", None)
        nodes = value.elts if isinstance(value, ast.List) else [value]
        calls += [_from_python(node, schemas) for node in nodes]
    return calls


def _from_python(node: Any, schemas: _Schemas) -> _Call:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and len(node.args) == 1:
        node = node.args[0]
    if not isinstance(node, ast.Call):
        _fail("no call")
    name = ast.unparse(node.func)
    keys = [*schemas.get(name, ())][: len(node.args)]
    keys += [keyword.arg for keyword in node.keywords if keyword.arg]
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    if len(set(keys)) < len(values):
        _fail("an argument without a name of its own")
    return _Call(name, dict(zip(keys, map(_literal, values), strict=True)))


class _JsonNames(ast.NodeTransformer):
    """Reads `true`, `false` and `null`, which models write into Python."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node


def _evaluated(code: str) -> Any:
    return _literal(ast.parse(_escaped(code), mode="eval").body)


def _literal(node: ast.expr) -> Any:
    # By way of JSON: tuples become lists; bytes and sets, which no tool takes, are errors.
    return json.loads(json.dumps(ast.literal_eval(_JsonNames().visit(node))))


def _escaped(code: str) -> str:
    """Double the backslashes that escape nothing, as regular expressions have: Python warns."""
    valid = r"(\\[\\'\"abfnrtvxuUN0-7\n])"
    return re.sub(valid + r"|\\", lambda found: found[1] or r"\\", code)


def _closing_bracket(text: str, start: int) -> int:
    """Return the end of the bracket that opens at `start`, or `start` where none closes it."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(token[0], 0)
        if depth <= 0:
            return token.end()
    return start


def _check_numbers(calls: Sequence[_Call]) -> None:
    """Refuse NaN and infinity, which no JSON has, though `json` reads them."""
    json.dumps([call.args for call in calls], allow_nan=False)


def _fail(reason: str) -> NoReturn:
    raise ValueError(reason)


# To LangChain's calls.


def _invalid(
    text: str, opening: re.Match[str], error: BaseException
) -> tuple[InvalidToolCall, int]:
    """Return what a marker announced but is no call, and where that ends."""
    closing = _ENDS[opening["marker"]]
    stops = "|".join(map(re.escape, [closing, *_ENDS.keys() - {"<function="}]))
    payload = re.split(stops, text[opening.end() :], maxsplit=1)[0]
    end = opening.end() + len(payload)
    if text.startswith(closing, end):
        end += len(closing)
    name = re.search(r'"name"\s*:\s*"([^"\\]+)"', payload)
    call = invalid_tool_call(
        name=name[1] if name else None,
        # With its marker: LangChain completes JSON that is streamed, and would make a call of it.
        args=text[opening.start() : end].strip(),
        id=f"call_{uuid.uuid4().hex}",
        error=str(error) or type(error).__name__,
    )
    return call, end


def _with_ids(calls: Sequence[_Call]) -> list[ToolCall]:
    seen = {""}
    identified = []
    for call in calls:
        own = f"call_{uuid.uuid4().hex}" if call.id in seen else call.id
        seen.add(own)
        identified.append(tool_call(name=call.name, args=call.args, id=own))
    return identified
