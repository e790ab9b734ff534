"""Answers follow schemas with every chat template, whatever the model would say."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import StructuredTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from llguidance import LLMatcher
from pydantic import BaseModel, ConfigDict, Field, RootModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typing_extensions import TypedDict
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import DEEPSEEK_R1, QWEN_3, TEMPLATES

from langchain_sift import ChatTestTimeFineTuned, TestTimeFineTunedLLM
from langchain_sift.config import ReasoningMarkers
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import call_opening, render
from langchain_sift.language_models.chat_templates.tools import convert_tools
from langchain_sift.language_models.structured_output.answer_formats import read_response_format
from langchain_sift.language_models.structured_output.answer_grammars import (
    check_schemas,
    format_grammar,
    optional_calls_grammar,
    required_call_grammar,
)
from langchain_sift.language_models.structured_output.form_reader import FormReader
from langchain_sift.language_models.structured_output.supported_schemas import (
    nearest_supported,
    supported_schema,
)
from langchain_sift.ttft.grammars import vocabulary_of

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
        with pytest.raises(ArgumentError, match=f"max_tokens is {max_tokens}, fewer than"):
            asked.invoke("Hello", max_tokens=max_tokens)


METHODS = ("function_calling", "json_schema", "json_mode")


def with_filters(chat: ChatTestTimeFineTuned) -> tuple[ChatTestTimeFineTuned, list[object]]:
    """Return the model with a retriever of no documents, and the filters that this will get."""
    filters: list[object] = []
    retriever = RunnableLambda(lambda _, **call: filters.append(call["filter"]) or [])
    return chat.model_copy(update={"retriever": retriever}), filters


@pytest.mark.slow
@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_the_arguments_of_a_call_for_an_object_reach_the_model(
    chat_with: Any, method: str, *, include_raw: bool
) -> None:
    chat, filters = with_filters(chat_with(None))
    bound = chat.with_config(tags=["mine"]).bind(filter="bound").with_config(tags=["more"])
    for model, arguments in ((chat, {"filter": "given"}), (bound, {})):
        asked = model.with_structured_output(Pet, method=method, include_raw=include_raw)
        answers = [
            asked.invoke("Hello", **arguments),
            await asked.ainvoke("Hello", **arguments),
            [*asked.stream("Hello", **arguments)][-1],
            [chunk async for chunk in asked.astream("Hello", **arguments)][-1],
            *asked.batch(["Hello"] * 2, **arguments),
            *await asked.abatch(["Hello"] * 2, **arguments),
        ]
        assert filters == [arguments.get("filter", "bound")] * len(answers)
        filters.clear()
        pets = [answer["parsed"] if include_raw else answer for answer in (answers[0], answers[-1])]
        assert all(isinstance(pet, Pet) for pet in pets)
        with pytest.raises(ArgumentError, match="'filtr' is no setting of a call"):
            asked.invoke("Hello", filtr="given")


def bindings_of(chat: Any) -> dict[str, Any]:
    """Return models to which a filter is bound around or within LangChain's other wrappers."""

    def note(_: Any) -> None:
        """Do nothing."""

    async def anote(_: Any) -> None:
        """Do nothing."""

    room = {"max_tokens": ConfigurableField("room")}
    wrapped = {
        "model": lambda model: model,
        "listeners": lambda model: model.with_listeners(on_start=note),
        "coroutines": lambda model: model.with_alisteners(on_start=anote),
        "types": lambda model: model.with_types(output_type=AIMessage),
        "config": lambda model: model.with_config(tags=["mine"]),
    }
    configurable = {"fields": chat.configurable_fields(**room)}
    configurable["configured fields"] = configurable["fields"].with_config(
        configurable={"room": 90}
    )
    around = {name: wrap(chat).bind(filter="bound") for name, wrap in wrapped.items()}
    within = {f"{name} of it": wrap(around["model"]) for name, wrap in wrapped.items()}
    fields = {
        f"{name} of {kind}": wrap(model).bind(filter="bound")
        for kind, model in configurable.items()
        for name, wrap in wrapped.items()
    }
    fallbacks = around["model"].with_fallbacks([around["types"]])
    return {**around, **within, **fields, "fallbacks": fallbacks}


@pytest.mark.slow
async def test_a_bound_filter_stays_whatever_wraps_the_model(chat_with: Any) -> None:
    chat, filters = with_filters(chat_with(None))
    for name, model in bindings_of(chat).items():
        for method in ("function_calling", "json_schema"):
            asked = model.with_structured_output(Pet, method=method)
            assert isinstance(await asked.ainvoke("Hello"), Pet)
        (call,) = (await model.bind_tools([stop], tool_choice="any").ainvoke("Hello")).tool_calls
        assert call["name"] == "stop"
        assert (name, filters) == (name, ["bound"] * 3)
        filters.clear()


async def test_listeners_and_fields_stay_when_tools_are_bound(chat_with: Any) -> None:
    heard: list[str] = []

    async def anote(_: Any) -> None:
        """Note a call."""
        heard.append("coroutine")

    heard_by = {"on_start": lambda _: heard.append("function")}
    configurable = chat_with(None).configurable_fields(max_tokens=ConfigurableField("room"))
    listening = configurable.with_listeners(**heard_by).with_alisteners(on_start=anote)
    model = listening.bind(documents=[]).bind_tools([stop])
    message = await model.ainvoke("Hello", {"configurable": {"room": 2}})
    assert message.usage_metadata["output_tokens"] <= 2
    assert sorted(heard) == ["coroutine", "function"]


def test_tools_beside_a_bound_response_format_are_an_error(chat_with: Any) -> None:
    chat = chat_with(None).bind(response_format=Pet, parallel_tool_calls=False)
    bound = chat.bind_tools([stop])
    assert bound.kwargs.keys() == {"response_format", "tools"}
    with pytest.raises(ArgumentError, match="response_format is not supported together with tools"):
        bound.invoke("Hello")
    assert isinstance(chat.with_structured_output(Pet).invoke("Hello"), Pet)


@pytest.mark.slow
def test_tools_that_are_bound_last_replace_others_and_nothing_else(chat_with: Any) -> None:
    chat, filters = with_filters(chat_with(None))
    bound = chat.bind(filter="bound").bind_tools([stop], tool_choice="any")
    assert bound.invoke("Hello").tool_calls[0]["name"] == "stop"
    free = bound.bind_tools([search])
    assert [tool["function"]["name"] for tool in free.kwargs["tools"]] == ["search"]
    assert free.invoke("Hello").tool_calls == []
    assert isinstance(free.with_structured_output(Pet, method="json_schema").invoke("Hello"), Pet)
    assert filters == ["bound"] * 3


@pytest.mark.parametrize("name", ["qwen", "none"])
def test_a_conversation_has_the_tokens_of_its_prompt(chat_with: Any, name: str) -> None:
    chat = chat_with(TEMPLATES.get(name)).model_copy(update={"max_tokens": 1})
    messages = [SystemMessage("Be brief."), HumanMessage("Hello")]
    for model, tools in ((chat, None), (chat.bind_tools([search]), [search])):
        usage = model.invoke(messages, documents=[]).usage_metadata
        assert chat.get_num_tokens_from_messages(messages, tools) == usage["input_tokens"]
    llm = TestTimeFineTunedLLM(model=chat.model, tokenizer=chat.tokenizer)
    prompt = "System: Be brief.\nHuman: Hello"
    assert llm.get_num_tokens_from_messages(messages) == llm.get_num_tokens(prompt)
    assert chat.get_num_tokens_from_messages([HumanMessage("x " * 50_000)]) > 50_000


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
    grammar = optional_calls_grammar(tokenizer, tools, None)
    assert grammar is not None
    good, bad = ('{"query": "x", "limit": 2}', '{"query": 5, "limit": 2}')
    form = CALL_TEMPLATES[name]
    assert accepts(tokenizer, grammar, "Only text.")
    assert accepts(tokenizer, grammar, "A call: " + form % good)
    assert not accepts(tokenizer, grammar, "A call: " + form % bad)
    forced = required_call_grammar(tokenizer, tools, None)
    opening = "".join(call_opening(tokenizer, tools, None))
    shown = (form % good).removeprefix(opening).partition("\n</tool_call>")[0]
    assert accepts(tokenizer, forced, shown) or accepts(tokenizer, forced, shown + "\n</tool_call>")
    assert not accepts(tokenizer, forced, (form % bad).removeprefix(opening), whole=False)
    (call,) = FormReader(tools, tokenizer).read(form % good).calls
    assert call["args"] == json.loads(good)


# Of DeepSeek, and of OpenAI's open models, abridged.
OTHERS = {
    "deepseek": """\
{% for t in tools or [] %}{{ t|tojson }}{% endfor %}
{%- for m in messages %}{% if m.role == 'user' %}{{- '<｜User｜>' + m.content }}{% else %}
{{- '<｜Assistant｜>' + m.content }}
{%- for call in m.tool_calls %}
{{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' }}
{{- call.function.arguments|tojson + '\\n```<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}""",
    "gpt-oss": """\
{% for t in tools or [] %}{{ t|tojson }}{% endfor %}
{%- for m in messages %}{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}
{{- '<|start|>assistant<|channel|>commentary to=functions.' + call.name }}
{{- ' json<|message|>' + call.arguments|tojson + '<|return|>' }}{% else %}
{{- '<|start|>' + m.role + ('<|channel|>final' if m.role == 'assistant' else '') }}
{{- '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}""",
}
FORMS = (
    '<tool_call>\n{"name": "search", "arguments": %s}\n</tool_call>',
    '<|tool_call|>[{"name": "search", "arguments": %s}]<|/tool_call|>',
    '[TOOL_CALLS] [{"name": "search", "arguments": %s}]',
    '<|python_tag|>{"name": "search", "parameters": %s}',
    "<function=search>%s</function>",
    '{ "name": "search", "arguments": %s}',
    '```json\n{"name": "search", "arguments": %s}\n```',
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n%s\n```",
    "<|channel|>commentary to=functions.search json<|message|>%s",
    "[search(**%s)]",
)


@pytest.mark.parametrize("name", [*TEMPLATES, "qwen-3", "none", *OTHERS])
def test_a_text_with_strict_tools_has_no_invalid_call_in_any_form(name: str) -> None:
    tokenizer = small_tokenizer("byte-level", {**TEMPLATES, **OTHERS, "qwen-3": QWEN_3}.get(name))
    tokenizer.add_tokens(["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"], special_tokens=True)
    tools = convert_tools([search, stop], strict=True)
    grammar = optional_calls_grammar(tokenizer, tools, None)
    reader = FormReader(tools, tokenizer)
    matcher = vocabulary_of(tokenizer).matcher(grammar)
    read = 0
    for form, args in itertools.product(FORMS, ('{"query": "a", "limit": 2}', '{"query": 5}')):
        text = f"Now: {form % args} Done."
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        valid = matcher.validate_tokens(tokens)
        found = reader.read(tokenizer.decode(tokens[:valid]))
        assert [call["args"] for call in found.calls] in ([], [{"query": "a", "limit": 2}])
        assert valid < len(tokens) or not found.invalid
        read += len(found.calls)
    assert read >= 5
    for text in ('{"name": "dog", "arguments": 5} [x](y) <b>', "<|channel|>final<|message|>Hello"):
        assert accepts(tokenizer, grammar, text)
        assert reader.read(text).calls == []


@pytest.mark.parametrize("name", ["qwen", "llama", "none", "deepseek"])
def test_content_that_was_streamed_before_a_call_never_changes(name: str) -> None:
    tokenizer = small_tokenizer("byte-level", {**TEMPLATES, **OTHERS}.get(name))
    tokenizer.add_tokens(["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"], special_tokens=True)
    reader = FormReader(convert_tools([search, stop], strict=True), tokenizer)
    for form in FORMS:
        text = "Now [see] <it>: " + form % '{"query": "a"}'
        content = reader.read(text).content
        for end in range(len(text) + 1):
            assert content.startswith(reader.certain_content(text[:end]))


def test_a_tools_name_is_text_in_a_grammar() -> None:
    tokenizer = small_tokenizer("byte-level", TEMPLATES["qwen"])
    function = {"name": 'f<|im_end|>"', "strict": True, "parameters": {"type": "object"}}
    tools: Any = [{"type": "function", "function": function}]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert f"[{end}]" not in required_call_grammar(tokenizer, tools, None)
    text = '{"name": "f<|im_end|>\\"", "arguments": {}}'
    (call,) = FormReader(tools, tokenizer).read(text).calls
    assert call["name"] == function["name"]


def test_tools_that_are_not_strict_leave_the_answer_free(templated: Templated) -> None:
    tools = convert_tools([search, stop])
    assert optional_calls_grammar(templated(TEMPLATES["qwen"]), tools, None) is None


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
    grammar = required_call_grammar(templated(TEMPLATES["qwen"]), [tool], None)
    assert LLMatcher.validate_grammar(grammar) == ""


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
        ({"enum": ["x" * 200_000]}, "200,014 characters"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "required": ["a", "a"], "minProperties": 3}, "minProperties"),
        ({"type": "object", "minProperties": 10**400}, "minProperties"),
        ({"type": "integer", "multipleOf": 2_000_003}, "multipleOf 2000003"),
        ({"type": "number", "multipleOf": 0.00020001}, "multipleOf"),
        ({"allOf": [{"type": "integer", "multipleOf": n} for n in (97, 101, 103)]}, "multipleOf"),
        ({"anyOf": [{"multipleOf": 10**400 + 1}, {"multipleOf": 1e-300}]}, "multipleOf"),
        ({"x": {"multipleOf": 99991}, "type": "integer", "$ref": "#/x"}, "multipleOf"),
        ({"enum": [{"multipleOf": 99991}], "$ref": "#/enum/0"}, "multipleOf"),
        ({"type": "object", "properties": {"enum": {"multipleOf": 99991}}}, "multipleOf"),
        ({"prefixItems": [{"multipleOf": 9000 + n} for n in range(20)]}, "multipleOf"),
    ],
    ids=str,
)
def test_an_unsupported_schema_is_an_error_that_names_the_keyword(
    schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(ArgumentError, match=keyword):
        supported_schema(schema)


@pytest.mark.parametrize("name", ["const", "default", "enum", "examples"])
def test_the_values_of_data_are_no_schemas(name: str) -> None:
    value = {"multipleOf": 99991, "minProperties": 3}
    listed = [value] if name in {"enum", "examples"} else value
    supported_schema({"type": "object", "properties": {"a": {name: listed}}})


def test_a_tool_of_very_many_keywords_keeps_its_names_and_types() -> None:
    properties: dict[str, Any] = {
        f"p{n}": {"type": "string", "minLength": n, "maxLength": n + 5} for n in range(2000)
    }
    properties["p0"] = {"type": "string", "not": {}}
    found = nearest_supported({"type": "object", "properties": properties, "required": ["p1"]})
    assert found["required"] == ["p1"]
    assert found["properties"] == {key: {"type": "string"} for key in properties}
    many = {f"p{n}": {"enum": [n], "not": {}} for n in range(2000)}
    assert nearest_supported({"properties": many})["type"] == "object"


@pytest.mark.parametrize("multiple", [7, 9973, 0.01, 1_000_000, 12.5, 65536])
def test_a_multiple_of_few_remainders_is_enforced(
    tiny_tokenizer: PreTrainedTokenizerFast, multiple: float
) -> None:
    grammar = grammar_of(tiny_tokenizer, {"type": "number", "multipleOf": multiple})
    for value in (multiple, multiple * 3, multiple / 7):
        valid = Decimal(str(value)) % Decimal(str(multiple)) == 0
        assert accepts(tiny_tokenizer, grammar, f"{Decimal(str(value)):f}") == valid


def required_of_itself(kind: str) -> dict[str, Any]:
    own = {"$ref": "#/$defs/node"}
    inner = {
        "object": {"type": "object", "properties": {"b": own}, "required": ["b"]},
        "array": {"type": "array", "items": own, "minItems": 1},
        "prefix": {"type": "array", "prefixItems": [{}, own], "minItems": 2},
        "list of types": {"type": ["object"], "properties": {"b": own}, "required": ["b"]},
        "further": {"type": "object", "required": ["a"], "additionalProperties": own},
        "pattern": {"type": "object", "required": ["a"], "patternProperties": {"^a": own}},
        "any further": {"type": "object", "minProperties": 1, "additionalProperties": own},
        "anyOf": {
            "anyOf": [{"type": "object", "properties": {n: own}, "required": [n]} for n in "ab"]
        },
    }
    return {"$defs": {"node": inner[kind]}, **own}


@pytest.mark.parametrize(
    "kind",
    [
        *("object", "array", "prefix", "list of types", "further", "pattern", "any further"),
        "anyOf",
    ],
)
def test_no_answer_can_follow_a_schema_whose_values_contain_themselves(kind: str) -> None:
    with pytest.raises(ArgumentError, match="no answer can follow it"):
        supported_schema(required_of_itself(kind))


def test_a_value_may_contain_another_of_its_kind() -> None:
    class Node(BaseModel):
        left: Node | None
        right: list[Node]

    supported_schema(Node.model_json_schema())
    chain = {f"n{n}": {"$ref": f"#/$defs/n{n + 1}"} for n in range(50)}
    supported_schema({"$defs": {**chain, "n50": {"type": "integer"}}, "$ref": "#/$defs/n0"})


class Tree(BaseModel):
    """A tree."""

    title: str
    more: list[Tree] = []


class Wood(BaseModel):
    """Trees."""

    first: Tree | None = None


def plant(first: Tree | None = None) -> str:
    """Plant a tree.

    Args:
        first: The tree.
    """
    return str(first)


RECURSIVE = {
    "class": Tree,
    "schema": {"title": "Tree", **Tree.model_json_schema()},
    "class of another": Wood,
    "function": plant,
    "tool": tool(plant),
    "tool of a schema": StructuredTool(
        name="plant", description="Plant.", args_schema=Wood.model_json_schema(), func=plant
    ),
}


def test_the_tools_of_the_caller_do_not_change() -> None:
    tools = [convert_to_openai_tool(search)]
    before = copy.deepcopy(tools)
    for strict in (True, False):
        (converted,) = convert_tools(tools, strict=strict)
        assert converted["function"] == {**before[0]["function"], "strict": strict}
    assert tools == before


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_schema_that_contains_itself_is_enforced_at_every_depth(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    described: Any = RECURSIVE[name]
    (converted,) = convert_tools([described], strict=True)
    grammars = [required_call_grammar(tiny_tokenizer, [converted], None)]
    calls = [f'{{"name": "{converted["function"]["name"]}", "arguments": %s}}']
    if isinstance(described, type):
        asked = read_response_format(described)
        assert asked is not None
        grammars.append(format_grammar(tiny_tokenizer, asked.schema, None))
        calls.append("%s")
    outer = "%s" if name in {"class", "schema"} else '{"first": %s}'
    for depth in range(4):
        tree = '{"title": "a", "more": [' * depth + '{"title": %s}' + "]}" * depth
        for grammar, call in zip(grammars, calls, strict=True):
            assert accepts(tiny_tokenizer, grammar, call % (outer % (tree % '"b"')))
            assert not accepts(tiny_tokenizer, grammar, call % (outer % (tree % "5")), whole=False)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_describes_a_tool_that_contains_itself(
    templated: Templated, template: str
) -> None:
    tokenizer = templated(TEMPLATES[template])
    prompt = render(tokenizer, [HumanMessage("Hello")], tools=convert_tools([plant]))
    shown = tokenizer.decode(prompt)
    assert "plant" in shown
    assert ("#/$defs/Tree" in shown) == ("The tree." in shown)  # some show names alone


def test_a_typed_dict_that_contains_itself_is_refused() -> None:
    class Chain(TypedDict):
        """A chain."""

        rest: list[Chain]

    Chain.__annotations__ = {"rest": list[Chain]}
    with pytest.raises(ArgumentError, match="'Chain' contains itself"):
        convert_tools([Chain])


NUMBER = {"type": "integer"}
WITHOUT_PROPERTIES: tuple[dict[str, Any], ...] = (
    {"type": "object", "additionalProperties": NUMBER},
    {"type": "object", "patternProperties": {"^a+$": NUMBER}, "additionalProperties": False},
    {"anyOf": [{"properties": {name: NUMBER}, "required": [name]} for name in ("a", "aa")]},
    {"$defs": {"n": {"properties": {"a": NUMBER}}}, "$ref": "#/$defs/n"},
    {
        "$defs": {
            "n": {"$ref": "#/$defs/m"},
            "m": {"properties": {"a": NUMBER}, "required": ["a"]},
        },
        "$ref": "#/$defs/n",
    },
    {
        "$defs": {"n": {"properties": {"a": NUMBER, "b": NUMBER}, "required": ["b"]}},
        "$ref": "#/$defs/n",
        "required": ["a"],
    },
    {
        "$defs": {
            "n": {"$ref": "#/$defs/m", "required": ["a"]},
            "m": {"properties": {"a": NUMBER, "b": NUMBER}},
        },
        "$ref": "#/$defs/n",
    },
)
ARGUMENTS: tuple[dict[str, object], ...] = ({"a": 5}, {"a": "b"}, {"a": 5, "b": 5}, {"b": 5}, {})


@pytest.mark.parametrize("schema", WITHOUT_PROPERTIES, ids=str)
def test_a_call_follows_a_schema_without_properties(
    tiny_tokenizer: PreTrainedTokenizerFast, schema: dict[str, Any]
) -> None:
    tools = convert_tools([{"title": "f", **schema}], strict=True)
    grammar = required_call_grammar(tiny_tokenizer, tools, None)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    accepted = [
        arguments
        for arguments in ARGUMENTS
        if accepts(tiny_tokenizer, grammar, json.dumps({"name": "f", "arguments": arguments}))
    ]
    assert accepted
    assert all(map(valid, accepted))
    assert ({"a": 5} in accepted) == valid({"a": 5})


def test_references_that_lead_only_to_each_other_are_refused() -> None:
    parts = {"n": {"$ref": "#/$defs/m"}, "m": {"$ref": "#/$defs/n"}}
    (described,) = convert_tools([{"title": "f", "$defs": parts, "$ref": "#/$defs/n"}], strict=True)
    with pytest.raises(ArgumentError, match="the tool 'f': no decoder supports the schema"):
        check_schemas([described])


class Numbers(RootModel[dict[str, int]]):
    """Numbers by name."""


class Owned(RootModel[Pet]):
    """A pet."""


class Planted(RootModel[Tree]):
    """A tree."""


class Few(RootModel[list[int]]):
    """Numbers."""


@pytest.mark.slow
@pytest.mark.parametrize("root", [Numbers, Owned, Planted])
def test_a_call_gives_an_object_of_a_root_model(chat_with: Any, root: type[BaseModel]) -> None:
    chat = chat_with(None)
    for strict in (None, False):
        assert isinstance(chat.with_structured_output(root, strict=strict).invoke("Hello"), root)
    asked = chat.with_structured_output(root, include_raw=True)
    raw = asked.invoke("Hello")
    assert isinstance(raw["parsed"], root)
    assert isinstance([*chat.with_structured_output(root).stream("Hello")][-1], root)


@pytest.mark.parametrize("numbers", [{}, {"root": 5}, {"root": 5, "a": 1}])
def test_the_arguments_of_a_root_model_may_have_any_names(
    chat_with: Any, numbers: dict[str, int]
) -> None:
    call = {"name": "Numbers", "args": numbers, "id": "1"}
    parser: Any = chat_with(None).with_structured_output(Numbers).last
    assert parser.invoke(AIMessage("", tool_calls=[call])) == Numbers(numbers)


@pytest.mark.parametrize(
    "schema",
    [
        Few,
        {"title": "f", "type": "array", "items": NUMBER},
        {"title": "f", "type": "string"},
        {"title": "f", "enum": ["a", "b"]},
        {"title": "f", "anyOf": [{"type": "object"}, {"type": "null"}]},
        {"title": "f", "$defs": {"n": {"type": ["object", "null"]}}, "$ref": "#/$defs/n"},
    ],
    ids=str,
)
def test_a_call_for_values_without_names_is_refused_and_the_error_names_another_method(
    chat_with: Any, schema: Any
) -> None:
    chat = chat_with(None)
    with pytest.raises(ArgumentError, match=r'method="json_schema"'):
        chat.with_structured_output(schema)
    chat.with_structured_output(schema, method="json_schema")


@pytest.mark.parametrize(
    "keyword",
    [
        {"uniqueItems": True},
        {"contains": {"const": "x"}},
        {"not": {"const": []}},
        {"multipleOf": 2_000_003},
        {"$ref": "#/$defs/missing"},
        {"minItems": 3, "maxItems": 2},
    ],
    ids=str,
)
def test_a_tool_that_is_not_strict_loses_only_the_keyword_that_no_decoder_supports(
    tiny_tokenizer: PreTrainedTokenizerFast, keyword: dict[str, Any]
) -> None:
    tags = {"type": "array", "items": {"type": "string"}}
    schema = {
        "type": "object",
        "properties": {"tags": {**tags, **keyword}, "n": {"oneOf": [{"type": "integer"}, True]}},
        "required": ["tags"],
    }
    with pytest.raises(ArgumentError):
        supported_schema(schema)
    grammar = format_grammar(tiny_tokenizer, nearest_supported(schema), None)
    assert accepts(tiny_tokenizer, grammar, '{"tags": ["a", "b"]}')
    for bad in ("{}", '{"tags": 3}', '{"tags": [3]}', '{"tags": [], "more": 1}'):
        assert not accepts(tiny_tokenizer, grammar, bad)


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


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"anyOf": [schema]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "maximum": 10**30},
        {"const": -(10**30)},
        {"const": "\ud800"},
        {"type": "string", "minLength": 10**30},
        {"type": "object", "properties": {"a": {}}, "required": [["a"]]},
        {"type": "object", "properties": {"a": {}}, "required": 5},
        {"type": "object", "properties": 5},
        {"anyOf": 5},
        deep(200),
        deep(5000),
    ],
)
def test_a_schema_that_is_none_is_an_error_of_the_caller(schema: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="schema"):
        supported_schema(schema)
