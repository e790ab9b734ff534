"""Test the parsing of tool calls in the formats of local models."""

from __future__ import annotations

import json
import string
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from unit_tests.templates import QWEN, TEMPLATES, TOOLS

from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.structured_output.tool_calls import ToolCallReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Templated = Callable[[str | None], "PreTrainedTokenizerFast"]

Calls = list[tuple[str, dict[str, Any]]]

READER = ToolCallReader(TOOLS)


def as_json(calls: Calls, key: str = "arguments") -> list[str]:
    return [json.dumps({"name": name, key: args}) for name, args in calls]


def as_python(calls: Calls) -> str:
    written = [
        f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})"
        for name, args in calls
    ]
    return f"[{', '.join(written)}]"


def as_xml(calls: Calls, *, opened: bool = True) -> str:
    written = []
    for name, args in calls:
        body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in args.items())
        begun = "<tool_call>\n" if opened else ""
        written.append(f"{begun}<function={name}>\n{body}</function>\n</tool_call>")
    return "\n".join(written)


MARKED: dict[str, Callable[[Calls], str]] = {
    "hermes": lambda c: "\n".join(f"<tool_call>\n{x}\n</tool_call>" for x in as_json(c)),
    "hermes, cut": lambda c: "\n".join(f"<tool_call>\n{x}\n" for x in as_json(c)),
    "hermes, a bracket more": lambda c: "".join(
        f"<tool_call>{x}}}</tool_call>" for x in as_json(c)
    ),
    "hermes, arguments as text": lambda c: "".join(
        "<tool_call>" + json.dumps({"name": name, "arguments": json.dumps(args)})
        for name, args in c
    ),
    "hermes, python": lambda c: "".join(
        f"<tool_call>{ {'name': name, 'arguments': args} }</tool_call>" for name, args in c
    ),
    "llama, tagged": lambda c: "<|python_tag|>" + "; ".join(as_json(c, "parameters")),
    "llama 4": lambda c: f"<|python_start|>{as_python(c)}<|python_end|>",
    "mistral": lambda c: f"[TOOL_CALLS] [{', '.join(as_json(c))}]",
    "mistral, new": lambda c: "".join(
        f"[TOOL_CALLS]{name}[ARGS]{json.dumps(args)}" for name, args in c
    ),
    "phi": lambda c: f"<|tool_call|>[{', '.join(as_json(c))}]<|/tool_call|>",
    "openai": lambda c: "".join(
        '<tool_call>{"type": "function", "function": ' + x + "}</tool_call>" for x in as_json(c)
    ),
}
UNMARKED: dict[str, Callable[[Calls], str]] = {
    "llama": lambda c: "; ".join(as_json(c, "parameters")),
    "llama, lines": lambda c: "\n".join(as_json(c, "parameters")),
    "json list": lambda c: f"[{', '.join(as_json(c))}]",
    "pythonic": as_python,
    "gemma": lambda c: "```tool_code\n" + "\n".join(as_python([x])[1:-1] for x in c) + "\n```",
    "gemma, printed": lambda c: "```tool_code\nprint(" + as_python(c[:1])[1:-1] + ")\n```",
    "gemma, json": lambda c: "```json\n[" + ",\n".join(as_json(c)) + "]\n```",
}
FORMATS = {**MARKED, **UNMARKED}

identifiers = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8).map("x{}".format)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
markup = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "[ARGS]",
            "<|tool_call|>",
            "<|/tool_call|>",
        ),
        *(
            "<|python_tag|>",
            "<function=search>",
            "<parameter=query>",
            "</parameter>",
            "</function>",
        ),
        *(
            "```json\n",
            "```tool_code\n",
            "```",
            '{"name": "search"',
            '"arguments": {',
            '"parameters":',
        ),
        *(
            "[search(",
            "add(a=1",
            'query="x"',
            "[",
            "]",
            "{",
            "}",
            "(",
            ")",
            '"',
            "'",
            ",",
            ";",
            ":",
        ),
        *("\n", " ", "<", "[T", "\\", "\x00", "1", "true", "None", "search", "f'{a}'", "lambda: 0"),
        *(
            '{"name": "search", "arguments": {"query": "x"}}',
            "[add(a=1, b=2)]",
            "Hello",
            "-",
            "(" * 300,
        ),
    ]
)
anything = st.lists(st.one_of(markup, words), max_size=12).map("".join)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**12), 10**12),
        st.floats(allow_nan=False, allow_infinity=False),
        words,
        markup,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
calls_of_tools = st.lists(
    st.tuples(st.sampled_from(["search", "add"]), st.dictionaries(identifiers, values, max_size=3)),
    min_size=1,
    max_size=3,
)
before = st.sampled_from(["", "I look.\n", "Two words,\n\nthen:\n", "\n\n", "In [1] and {2}:\n"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@given(calls=calls_of_tools, lead=before)
@settings(max_examples=60)
def test_calls_in_each_format_are_parsed(name: str, calls: Calls, lead: str) -> None:
    expected = calls[:1] if name == "gemma, printed" else calls
    if name.startswith("gemma") and name != "gemma, json":
        assume("```" not in as_python(calls))
    answer = lead + FORMATS[name](calls)
    content, found, invalid = READER.read(answer)
    assert [(call["name"], call["args"]) for call in found] == expected
    assert invalid == []
    assert content == lead.rstrip()
    assert len({call["id"] for call in found}) == len(found)
    assert all(call["id"].startswith("call_") for call in found)


scalars = st.one_of(
    st.fixed_dictionaries({"query": words.filter(lambda text: "</" not in text)}),
    st.fixed_dictionaries({"limit": st.integers(), "deep": st.booleans()}),
)


@pytest.mark.parametrize("opened", [True, False])
@given(calls=st.lists(st.tuples(st.just("search"), scalars), min_size=1, max_size=3))
def test_qwen_coder_writes_values_without_quotes(opened: bool, calls: Calls) -> None:  # noqa: FBT001
    content, found, invalid = READER.read(as_xml(calls, opened=opened))
    assert [(call["name"], call["args"]) for call in found] == calls
    assert (content, invalid) == ("", [])


@pytest.mark.slow
@given(text=anything)
@example("[" * 100_000)
@example("<tool_call>" + '{"a":' * 100_000)
@example("[search(" + "-" * 100_000 + "1)]")
@example("[search(" + "(" * 100_000)
@example('<tool_call>{"name": "search", "arguments": {"limit": ' + "9" * 5000 + "}}")
@example("```tool_code\nsearch('\\d', \x00)\n```")
@example("[search(query='\\d+\\400')]")
@example('[search(query=f"{exit()}")]')
@settings(max_examples=400)
def test_no_answer_is_an_error_and_one_without_calls_is_unchanged(text: str) -> None:
    content, calls, invalid = READER.read(text)
    assert calls or invalid or content == text
    assert ToolCallReader([]).read(text) == (text, [], [])


def holds(text: str, reader: ToolCallReader = READER) -> None:
    """Check that the certain content is always a prefix of the final content."""
    content, calls, invalid = reader.read(text)
    for end in range(len(text) + 1):
        assert content.startswith(reader.certain_content(text[:end])), (text[:end], calls, invalid)


@pytest.mark.slow
@given(text=anything)
@settings(max_examples=300)
def test_no_markup_is_ever_sent_out(text: str) -> None:
    holds(text)


@pytest.mark.parametrize("name", FORMATS)
@given(calls=calls_of_tools, lead=before, after=anything)
@settings(max_examples=20)
def test_no_content_is_certain_after_the_beginning_of_a_call(
    name: str, calls: Calls, lead: str, after: str
) -> None:
    answer = lead + FORMATS[name](calls)
    assert len(READER.certain_content(answer)) == len(lead.rstrip())
    assert len(READER.certain_content(answer + after)) == len(lead.rstrip())
    holds(answer + after)


def test_text_that_cannot_be_a_call_is_certain() -> None:
    for text in ("Hello", "a < b", "[1] says", '{"city": 1', "x = [search", "```python", "<tool_x"):
        assert len(READER.certain_content(text)) == len(text)
    assert len(ToolCallReader([]).certain_content("[search(")) == len("[search(")
    held = {"so <": 2, "so\n[": 2, "so\n```": 2, "so [TOOL": 2, 'so\n{"na': 2, "so \n": 2}
    assert {text: len(READER.certain_content(text)) for text in held} == held


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "search", "description": "what I can do"}',
        '[{"name": "search"}, {"name": "add"}]',
        "[unknown(a=1)]",
        "[search(query=open('x'))]",
        "[search(query=",
        "[search(**{'query': 1})]",
        "[add(1, 2, 3)]",
        "[add(1, a=2)]",
        "[add(a=1e999)]",
        '{"name": "add", "arguments": {"a": NaN}}',
        "```tool_code\nimport os\n```",
        "```json\n{}\n```",
        'Say {"name": "search", "arguments": {}} in a line',
        '{"name": "search", "arguments": "no json"}',
    ],
)
def test_without_a_marker_only_calls_of_known_tools_count(text: str) -> None:
    assert READER.read(text) == (text, [], [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('<tool_call>{"name": "add", "arguments": {"a"</tool_call>', "add"),
        ("<tool_call>", None),
        ('<tool_call>{"arguments": {}}</tool_call>', None),
        ('<tool_call>{"name": "add", "arguments": [1]}', "add"),
        ("[TOOL_CALLS][]", None),
        ("[TOOL_CALLS]add[ARGS]{", None),
        ("<|python_tag|>import os", None),
        ("<|tool_call|>[add(a=b)]<|/tool_call|>", None),
        ("<|tool_call|>[add(1, a=2)]<|/tool_call|>", None),
        ('<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "add"),
        ('<tool_call>{"name": "add", "arguments": {"a": [-Infinity]}}</tool_call>', "add"),
        ("<tool_call><function=add><parameter=a>Infinity</parameter></function></tool_call>", None),
        ("<tool_call><function=add><parameter=a>1", None),
    ],
)
def test_a_malformed_call_after_a_marker_has_a_reason(text: str, name: str | None) -> None:
    content, calls, (invalid, *_) = READER.read(f"Well. {text}")
    assert (content, calls) == ("Well.", [])
    assert invalid["name"] == name
    assert text.startswith(invalid["args"])
    assert invalid["error"]
    assert invalid["id"].startswith("call_")


@given(text=anything.map("<tool_call>{}".format))
@example('<tool_call>{"name": "add", "arguments": {"a": 1')
@example("<tool_call>")
@example("[TOOL_CALLS] [")
def test_an_invalid_call_stays_invalid_where_langchain_completes_streamed_json(text: str) -> None:
    for call in READER.read(text).invalid:
        chunk = tool_call_chunk(name=call["name"], args=call["args"], id=call["id"], index=0)
        message = AIMessageChunk("", tool_call_chunks=[chunk], chunk_position="last")
        assert message.tool_calls == []
        assert message.invalid_tool_calls[0]["args"] == call["args"]


def test_valid_and_invalid_calls_can_be_mixed() -> None:
    good = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    text = f"One. {good}\n<tool_call>{{oops</tool_call> Two.\n{good} Three."
    content, calls, invalid = READER.read(text)
    assert content == "One. Two. Three."
    assert [call["args"] for call in calls] == [{"a": 1}, {"a": 1}]
    assert [call["args"] for call in invalid] == ["<tool_call>{oops</tool_call>"]


def test_ids_of_the_model_are_kept_and_made_unique() -> None:
    text = (
        '[TOOL_CALLS][{"name": "add", "arguments": {}, "id": "abc123DEF"}, '
        '{"name": "add", "arguments": {}, "id": "abc123DEF"}]'
    )
    first, second = (call["id"] for call in READER.read(text)[1])
    assert first == "abc123DEF"
    assert second.startswith("call_")
    text = '[TOOL_CALLS]add[CALL_ID]abc123DEF[ARGS]{"a": 1}'
    assert READER.read(text)[1][0]["id"] == "abc123DEF"


def test_python_calls_may_have_positional_arguments_and_json_names() -> None:
    text = "[search('rice', 2, deep=true), add(a=null, b=(1, -2))]"
    calls = READER.read(text)[1]
    assert [call["args"] for call in calls] == [
        {"query": "rice", "limit": 2, "deep": True},
        {"a": None, "b": [1, -2]},
    ]
    assert READER.read("[add(1, b=2)]")[1][0]["args"] == {"a": 1, "b": 2}
    text = r"[search(query='\d+\\n')]"
    assert READER.read(text)[1][0]["args"] == {"query": r"\d+\n"}


def test_arguments_in_xml_have_the_types_of_the_schema() -> None:
    body = "<parameter=query>\n12\n</parameter><parameter=limit>many</parameter>"
    text = f"<function=search>{body}<parameter=deep>False</parameter></function>"
    args = {"query": "12", "limit": "many", "deep": False}
    assert READER.read(text)[1][0]["args"] == args
    text = '<function=search>{"query": "x"}</function>'
    assert READER.read(text)[1][0]["args"] == {"query": "x"}


@pytest.mark.parametrize("name", ["qwen", "qwen-coder", "llama", "mistral"])
def test_calls_that_a_template_renders_are_parsed(templated: Templated, name: str) -> None:
    args = {"query": 'a "b"\n</tool_call>', "limit": 2, "deep": True}
    call = {"name": "search", "args": args, "id": "abcDEF123"}
    history = [HumanMessage("x"), AIMessage("", tool_calls=[call])]
    tokenizer = templated(TEMPLATES[name])
    prompt, whole = (tokenizer.decode(render(tokenizer, history[:end])) for end in (1, 2))
    answer = whole.removeprefix(prompt)
    for end in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>"):
        answer = answer.partition(end)[0]
    found = READER.read(answer)[1]
    assert [(call["name"], call["args"]) for call in found] == [("search", args)]


RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|turn>model\n",
    "fields": {
        "reasoning_content": {"open": "<|think>", "close": "<think|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|call>call:(?P<name>\w+)",
            "close": "<call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close": ["<turn|>"], "content": "text"},
    },
}


def test_a_response_template_takes_precedence(templated: Templated) -> None:
    tokenizer = templated(QWEN)
    tokenizer.response_template = RESPONSE_TEMPLATE
    text = 'I look.\n<|call>call:search{query:<|"|>rice<|"|>,limit:2}<call|><turn|>'
    content, calls, invalid = ToolCallReader(TOOLS, tokenizer).read(text)
    assert (content, invalid) == ("I look.", [])
    assert [(call["name"], call["args"]) for call in calls] == [
        ("search", {"query": "rice", "limit": 2})
    ]
    assert len(ToolCallReader(TOOLS, tokenizer).certain_content(text)) == len("I look.")
    for answer in (
        *(
            text,
            "<|think>hm<think|>" + text,
            "Plain <|ca",
            "<tool_call>{}",
            "x<|call>call:add{<call|>",
        ),
        "  Spaced\n" + text + " and more",
    ):
        holds(answer, ToolCallReader(TOOLS, tokenizer))
    hermes = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    assert len(ToolCallReader(TOOLS, tokenizer).read(hermes)[1]) == 1
    broken = "x <|call>call:add{<call|>"
    assert ToolCallReader(TOOLS, tokenizer).read(broken) == (broken, [], [])


def test_reading_a_long_answer_takes_linear_time() -> None:
    def seconds(lines: int) -> float:
        text = "A line of prose, [1] and {2}.\n[3] {4}\n" * lines + "<tool_call>{}"
        start = time.process_time()
        READER.read(text)
        READER.certain_content(text)
        return time.process_time() - start

    shortest = min(seconds(500) for _ in range(3))
    assert min(seconds(2000) for _ in range(3)) < 10 * shortest  # 16 times if it were quadratic


def test_special_tokens_are_removed_from_the_content(templated: Templated) -> None:
    tokenizer = templated(QWEN)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>", "<|im", "[TOOL_CALLS]"]})
    reader = ToolCallReader(TOOLS, tokenizer)
    call = '[TOOL_CALLS][{"name": "add", "arguments": {"a": "<|im_end|>"}}]'
    for text, content in {
        "Hello <|im_end|>": "Hello ",
        "<|im_end|>One<|im_end|>\ntwo<|im<|endoftext|>": "One\ntwo",
        f"I look.<|im_end|>\n{call}<|im_end|>": "I look.",
        f"{call}<|im_end|> Well.": "Well.",
        "a <|im_begin|>": "a _begin|>",
    }.items():
        found = reader.read(text)
        assert found.content == content
        assert [call["args"] for call in found.calls] == [{"a": "<|im_end|>"}] * (call in text)
        holds(text, reader)
    assert reader.certain_content("Hello <|i") == "Hello"
    assert ToolCallReader([], tokenizer).read("<|im_end|>").content == "<|im_end|>"


def test_a_number_beyond_the_range_of_floats_is_the_nearest_float() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": -1e999, "b": 1e999}}</tool_call>'
    (call,) = READER.read(text).calls
    assert call["args"] == {"a": -sys.float_info.max, "b": sys.float_info.max}
