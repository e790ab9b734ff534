"""Answers follow schemas with every chat template, whatever the model would say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from llguidance import LLMatcher
from pydantic import BaseModel, ConfigDict, Field
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from unit_tests.templates import DEEPSEEK_R1, QWEN_3, TEMPLATES

from langchain_sift import ChatTestTimeFineTuned
from langchain_sift.config import ReasoningMarkers
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer_formats import read_response_format, supported_schema
from langchain_sift.language_models.answer_grammars import call_grammar, format_grammar
from langchain_sift.language_models.chat_templates import call_opening
from langchain_sift.language_models.tool_calls import ToolCallReader
from langchain_sift.language_models.tools import convert_tools
from langchain_sift.ttft.constraints import vocabulary_of

Templated = Callable[[str | None], PreTrainedTokenizerFast]


def grammar_of(tokenizer: PreTrainedTokenizerFast, schema: dict[str, Any]) -> str:
    return format_grammar(tokenizer, supported_schema(schema), None)


class Pet(BaseModel):
    """A pet."""

    name: Annotated[str, Field(pattern="^[a-z]{2,5}$")]
    kind: Literal["cat", "dog"]
    age: Annotated[int, Field(ge=0, le=30)]


def search(query: str, limit: int = 3) -> str:
    """Search for a text."""
    return query * limit


def stop() -> str:
    """Stop."""
    return ""


@pytest.fixture
def chat_with(tiny_model: LlamaForCausalLM, templated: Templated) -> Any:
    """Return a chat model with a template and room for descriptions of schemas."""

    def make(template: str | None) -> ChatTestTimeFineTuned:
        model = copy.deepcopy(tiny_model)
        model.config.max_position_embeddings = 4096
        return ChatTestTimeFineTuned(model=model, tokenizer=templated(template), max_tokens=80)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEMPLATES, "none"])
def test_every_template_gives_objects_and_required_calls(chat_with: Any, name: str) -> None:
    chat = chat_with(TEMPLATES.get(name))
    for method in ("function_calling", "json_schema", "json_mode"):
        assert isinstance(chat.with_structured_output(Pet, method=method).invoke("Hello"), Pet)
    for choice in ("any", "stop"):
        message = chat.bind_tools([search, stop], tool_choice=choice).invoke("Hello")
        (call,) = message.tool_calls
        assert (message.content, message.invalid_tool_calls) == ("", [])
        if call["name"] == "search":
            assert isinstance(call["args"]["query"], str)
        else:
            assert call["args"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_no_stop_string_and_no_limit_passes_a_part_off_as_an_object(
    chat_with: Any, method: str
) -> None:
    chat = chat_with(TEMPLATES["qwen"])
    asked = chat.with_structured_output(Pet.model_json_schema(), method=method)
    jsonschema.validate(asked.invoke("Hello", stop=[",", '"']), Pet.model_json_schema())
    for max_tokens in (1, 14):
        with pytest.raises(OutputParserException, match="raise max_tokens"):
            asked.invoke("Hello", max_tokens=max_tokens)


def accepts(
    tokenizer: PreTrainedTokenizerFast, grammar: str, text: str, *, whole: bool = True
) -> bool:
    matcher = vocabulary_of(tokenizer).matcher(grammar)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.consume_tokens(tokens) and matcher.is_accepting() >= whole


CALL_TEMPLATES = {
    "qwen": '<tool_call>\n{"name": "search", "arguments": %s}\n</tool_call>',
    "llama": '{"name": "search", "parameters": %s}',
    "mistral": '[TOOL_CALLS] [{"name": "search", "arguments": %s, "id": "abcdefghi"}]',
}


@pytest.mark.parametrize("name", CALL_TEMPLATES)
@pytest.mark.parametrize("as_tokens", [False, True])
def test_strict_tools_hold_every_call_to_its_schema(
    templated: Templated, name: str, *, as_tokens: bool
) -> None:
    tokenizer = templated(TEMPLATES[name])
    if as_tokens:  # as the published tokenizers have them
        tokenizer.add_tokens(["<tool_call>", "</tool_call>", "[TOOL_CALLS]"], special_tokens=True)
    tools = convert_tools([search, stop], strict=True)
    grammar = call_grammar(tokenizer, tools, must_call=False)
    assert grammar is not None
    good, bad = ('{"query": "x", "limit": 2}', '{"query": 5, "limit": 2}')
    form = CALL_TEMPLATES[name]
    assert accepts(tokenizer, grammar, "Only text.")
    assert accepts(tokenizer, grammar, "A call: " + form % good)
    assert not accepts(tokenizer, grammar, "A call: " + form % bad)
    forced = call_grammar(tokenizer, tools, must_call=True)
    assert forced is not None
    opening = call_opening(tokenizer, tools)
    shown = (form % good).removeprefix(opening).partition("\n</tool_call>")[0]
    assert accepts(tokenizer, forced, shown) or accepts(tokenizer, forced, shown + "\n</tool_call>")
    assert not accepts(tokenizer, forced, (form % bad).removeprefix(opening), whole=False)
    (call,) = ToolCallReader(tools, tokenizer).read(opening + shown).calls
    assert call["args"] == json.loads(good)


def test_tools_that_are_not_strict_leave_the_answer_free(templated: Templated) -> None:
    tools = convert_tools([search, stop])
    assert call_grammar(templated(TEMPLATES["qwen"]), tools, must_call=False) is None


def test_only_a_strict_tool_refuses_a_schema_that_no_decoder_supports(
    chat_with: Any, templated: Templated
) -> None:
    class Bag(BaseModel):
        items: set[int]

    chat = chat_with(TEMPLATES["qwen"])
    for method in ("function_calling", "json_schema", "json_mode"):
        with pytest.raises(ArgumentError, match="uniqueItems"):
            chat.with_structured_output(Bag, method=method)
    with pytest.raises(ArgumentError, match=r"'Bag'.*uniqueItems"):
        chat.bind_tools([Bag], strict=True)
    tool = convert_to_openai_tool(Bag)
    strict = {**tool, "function": {**tool["function"], "strict": True}}
    with pytest.raises(ArgumentError, match="uniqueItems"):
        chat.invoke("Hello", tools=[strict], documents=[])
    grammar = call_grammar(templated(TEMPLATES["qwen"]), [tool], must_call=True)
    assert grammar is not None


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}, "if"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "text"}, "text"),
        ({"enum": [{1}]}, "JSON"),
        ({"const": float("nan")}, "JSON"),
    ],
    ids=str,
)
def test_an_unsupported_schema_is_an_error_that_names_the_keyword(
    schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(ArgumentError, match=keyword):
        supported_schema(schema)


@pytest.mark.parametrize("value", ["json", {"type": "xml"}, {"type": "json_schema"}, 3])
def test_an_unknown_response_format_is_an_error(value: Any) -> None:
    with pytest.raises(ArgumentError, match="response_format"):
        read_response_format(value)


def test_text_is_the_default_format() -> None:
    assert read_response_format(None) is read_response_format({"type": "text"}) is None


def test_objects_have_only_the_properties_that_they_name(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        pet: Pet

    pet = '{"name": "tom", "kind": "cat", "age": 3%s}'
    grammar = grammar_of(tiny_tokenizer, Pet.model_json_schema())
    assert accepts(tiny_tokenizer, grammar, pet % "")
    assert not accepts(tiny_tokenizer, grammar, pet % ', "more": 1')
    open_grammar = grammar_of(tiny_tokenizer, Open.model_json_schema())
    assert accepts(tiny_tokenizer, open_grammar, '{"pet": %s, "more": 1}' % (pet % ""))
    joined = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], "required": ["b"]}
    assert accepts(tiny_tokenizer, grammar_of(tiny_tokenizer, joined), '{"a": 1, "b": 2}')
    unnamed = {"type": "object", "properties": {"a": {}}, "required": ["b"]}
    assert accepts(tiny_tokenizer, grammar_of(tiny_tokenizer, unnamed), '{"b": 2}')


def test_an_unknown_format_of_a_string_is_not_enforced(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    schema = {
        "properties": {"p": {"type": "string", "format": "path"}, "format": {"const": "path"}}
    }
    grammar = grammar_of(tiny_tokenizer, schema)
    assert accepts(tiny_tokenizer, grammar, '{"p": "a/b", "format": "path"}')
    assert LLMatcher.validate_grammar(grammar) == ""


def test_a_schema_is_described_to_the_model_in_the_system_text() -> None:
    described = read_response_format(Pet)
    assert described is not None
    first, second = described.describe([SystemMessage("Be brief."), HumanMessage("Hello")])[:2]
    assert first.text == "Be brief."
    assert '"enum": ["cat", "dog"]' in second.text


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        Pet,
        {"type": "json_schema", "json_schema": {"name": "p", "schema": Pet.model_json_schema()}},
    ],
    ids=["json_object", "class", "json_schema"],
)
def test_a_response_format_can_be_bound(chat_with: Any, response_format: Any) -> None:
    chat = chat_with(None).bind(response_format=response_format)
    text = chat.invoke("Hello").content
    schema = {} if response_format == {"type": "json_object"} else Pet.model_json_schema()
    jsonschema.validate(json.loads(text), {"type": "object", **schema})
    assert "".join(chunk.text for chunk in chat.stream("Hello")) == text


def test_a_format_and_tools_together_are_an_error(chat_with: Any) -> None:
    with pytest.raises(ArgumentError, match="together with tools"):
        chat_with(None).bind_tools([search], response_format=Pet).invoke("Hello")


@pytest.mark.parametrize("template", [QWEN_3, DEEPSEEK_R1], ids=["qwen-3", "deepseek-r1"])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_json_begins_after_the_reasoning(chat_with: Any, template: str, *, as_tokens: bool) -> None:
    chat = chat_with(template)
    if as_tokens:
        chat.tokenizer.add_tokens(["<think>", "</think>"])
        chat.model.resize_token_embeddings(len(chat.tokenizer), mean_resizing=False)
    tokenizer = chat.tokenizer
    for begun in (False, True):
        markers = ReasoningMarkers("<think>", "</think>", begun=begun)
        grammar = format_grammar(tokenizer, supported_schema(Pet.model_json_schema()), markers)
        pet = '{"name": "tom", "kind": "cat", "age": 3}'
        thought = "I think.\n</think>\n\n" + pet
        thinks = begun or as_tokens
        assert accepts(tokenizer, grammar, ("" if begun else "<think>") + thought) == thinks
        assert accepts(tokenizer, grammar, pet) != begun
    if as_tokens:  # one token ends the reasoning in time
        message = chat.bind(response_format=Pet).invoke("Hello")
        assert isinstance(Pet.model_validate_json(message.text), Pet)
