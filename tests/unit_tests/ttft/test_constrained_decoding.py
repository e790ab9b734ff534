"""Answers follow their grammars, row by row, within `max_tokens`."""

from __future__ import annotations

import copy
import json
import random
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from llguidance import LLMatcher

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError, PromptTooLong
from langchain_sift.ttft import (
    Engine,
    GenerationTask,
    LanguageModel,
    constrained_decoding,
    grammars,
)
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.constrained_decoding import Constraint
from langchain_sift.ttft.generation import generate
from langchain_sift.ttft.grammars import vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPTS = [[5, 9, 40, 41], [7], [100, 21, 8, 9, 10, 11, 12, 13, 14], [50, 51]]
TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                "name": {"type": "string", "pattern": "^[a-z]+@[a-z]+$"},
                "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            },
            "required": ["left", "name", "sizes"],
        }
    },
    "$ref": "#/$defs/tree",
}
SCHEMAS = [
    TREE,
    {"type": "string", "minLength": 30},
    {"enum": ["one", "two", 3]},
    {"type": "object"},
    {"type": "integer", "minimum": 5, "maximum": 1000},
]


def grammar(schema: dict[str, Any]) -> str:
    compact = {"whitespace_flexible": False}
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=compact)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    schemas: list[dict[str, Any] | None],
    **config: Any,
) -> list[tuple[str, str]]:
    """Return the text and the reason for the end of each answer."""
    texts: list[list[str]] = [[] for _ in schemas]
    reasons = [""] * len(schemas)

    def end(number: int, reason: str, *, early: bool, **_: object) -> None:
        reasons[number] = f"{reason} early" if early else reason

    continuations = [
        Continuation(
            PROMPTS[number % len(PROMPTS)],
            GenerationConfig(**config),
            lambda text, number=number: texts[number].append(text),
            lambda _, reason, number=number, **early: end(number, reason, **early),
            None if schema is None else grammar(schema),
        )
        for number, schema in enumerate(schemas)
    ]
    generate(model, tokenizer, continuations)
    return [("".join(text), reason) for text, reason in zip(texts, reasons, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 5}], ids=str)
@pytest.mark.parametrize("max_tokens", [45, 60, 90])
def test_answers_are_valid_whatever_the_model_would_say(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    sampling: dict[str, Any],
) -> None:
    found = answers(tiny_model, tiny_tokenizer, [*SCHEMAS], max_tokens=max_tokens, **sampling)
    for schema, (text, reason) in zip(SCHEMAS, found, strict=True):
        jsonschema.validate(json.loads(text), schema)
        assert reason in ("stop", "stop early", "length")


def test_an_answer_ends_with_its_grammar(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    schema = {"type": "array", "items": {"enum": [12]}, "minItems": 3, "maxItems": 3}
    assert answers(tiny_model, tiny_tokenizer, [schema], max_tokens=90) == [("[12,12,12]", "stop")]


def test_json_that_is_completed_early_to_fit_has_not_the_reason_length(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    schema = {"type": "string", "minLength": 3}
    ((text, reason),) = answers(tiny_model, tiny_tokenizer, [schema], max_tokens=8)
    assert len(json.loads(text)) >= 3
    assert reason == "stop early"


def test_an_answer_that_max_tokens_cuts_is_marked_as_such(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tree, integer = answers(tiny_model, tiny_tokenizer, [TREE, {"type": "integer"}], max_tokens=6)
    assert tree[1] == integer[1] == "length"
    assert tree[0].startswith('{"lef')
    assert isinstance(json.loads(integer[0]), int)


def test_rows_without_grammar_are_unchanged_and_rows_do_not_depend_on_each_other(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    schemas = [None, *SCHEMAS, None]
    together = answers(tiny_model, tiny_tokenizer, schemas, max_tokens=40)
    for number, schema in enumerate(schemas):
        before = [None] * (number % len(PROMPTS))  # for the same prompt
        alone = answers(tiny_model, tiny_tokenizer, [*before, schema], max_tokens=40)
        assert alone[-1] == together[number]


def test_settings_of_the_model_that_forbid_tokens_do_not_break_a_grammar(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    ids = [number for token, number in tiny_tokenizer.get_vocab().items() if '"' in token]
    model.generation_config.update(suppress_tokens=ids, no_repeat_ngram_size=2)
    ((text, _),) = answers(model, tiny_tokenizer, [TREE], max_tokens=60)
    jsonschema.validate(json.loads(text), TREE)


def test_a_grammar_that_no_decoder_supports_is_refused_before_anything_is_trained(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(LanguageModel("x", tiny_model, tiny_tokenizer), FineTuneConfig(lora_rank=2))
    unsupported = grammar({"type": "array", "uniqueItems": True})
    task = GenerationTask([5], GenerationConfig(), grammar=unsupported)
    with pytest.raises(ArgumentError, match="uniqueItems"):
        engine.request(["a document"], task)
    endless = GenerationTask([5], GenerationConfig(), grammar=grammar({"$ref": "#"}))
    with pytest.raises(ArgumentError, match=r"no answer can follow it.*\$ref"):
        engine.request([], endless)
    request = engine.request([], GenerationTask([5], GenerationConfig(), grammar=grammar(TREE)))
    known = vocabulary_of(tiny_tokenizer)._first_plans.cache_info().misses
    *pieces, outcome = engine.submit(request)
    assert vocabulary_of(tiny_tokenizer)._first_plans.cache_info().misses == known
    jsonschema.validate(json.loads("".join(pieces)), TREE)
    assert outcome.tokens > 10


def test_an_end_inside_a_string_is_not_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["[EOT]"])
    end = tokenizer.convert_tokens_to_ids("[EOT]")
    constraint = Constraint(
        vocabulary_of(tokenizer), grammar({"type": "string"}), 9, frozenset([end])
    )
    quote = tokenizer('"', add_special_tokens=False).input_ids[-1]
    constraint.take(quote)
    assert not constraint.mask(end + 1)[end]
    constraint.take(quote)
    assert constraint.complete or constraint.mask(end + 1)[end]


ITEM = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "b": {"type": "string", "pattern": "^[a-z]{2}-[0-9]$"},
    },
    "required": ["a", "b"],
}
HOSTILE: dict[str, dict[str, Any]] = {
    "long string": {"type": "string", "minLength": 2000},
    "many items": {"type": "array", "items": ITEM, "minItems": 100},
    "many properties": {
        "type": "object",
        "properties": {f"field_{n}": {"type": "string", "minLength": 3} for n in range(80)},
        "required": [f"field_{n}" for n in range(80)],
    },
    "long pattern": {"type": "string", "pattern": "^([a-z]{20}-){20}$"},
    "long beside short": {
        "type": "array",
        "items": {"anyOf": [{"type": "null"}, {"type": "array", "minItems": 400, "items": ITEM}]},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_noise_follows_a_hostile_schema_with_bounded_planning(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = HOSTILE[name]
    vocabulary = vocabulary_of(tiny_tokenizer)
    end = frozenset([vocabulary.end])
    plan = vocabulary.first_plan(grammar(schema), 6000, end).tokens
    assert plan is not None
    room = len(plan) + 20
    new: list[int] = []
    find = vocabulary.plan

    def counted(*args: Any, **kwargs: Any) -> grammars.Plan:
        found = find(*args, **kwargs)
        new.append(found.new)
        return found

    monkeypatch.setattr(vocabulary, "plan", counted)
    constraint = Constraint(vocabulary, grammar(schema), room, end)
    new.clear()  # found when the request was made
    rng, taken = random.Random(0), []
    while not constraint.complete:
        allowed = constraint.mask(vocabulary.size).nonzero().flatten().tolist()
        taken.append(constraint.take(rng.choice(allowed)))
    jsonschema.validate(json.loads(tiny_tokenizer.decode(taken, skip_special_tokens=True)), schema)
    assert len(taken) <= room + 1
    longest = 64  # tokens that a grammar leaves no choice
    assert max(new) <= constrained_decoding._MOST_NEW + longest
    assert sum(new) <= constrained_decoding._MOST_STEPS + len(taken) * longest


def test_a_long_string_is_planned_of_long_tokens(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = vocabulary_of(tiny_tokenizer)
    plan = vocabulary.first_plan(grammar({"type": "string", "minLength": 2000}), 2000, frozenset())
    assert plan.tokens is not None
    assert len(plan.tokens) < 700


def test_an_answer_without_room_is_refused_before_anything_is_trained(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(LanguageModel("x", tiny_model, tiny_tokenizer), FineTuneConfig(lora_rank=2))

    def request(schema: dict[str, Any], max_tokens: int, prompt: int = 1) -> Any:
        config = GenerationConfig(max_tokens=max_tokens)
        task = GenerationTask([5] * prompt, config, grammar=grammar(schema))
        return engine.request(["a document"], task)

    for name in ("long string", "many items", "many properties"):
        with pytest.raises(ArgumentError, match=r"max_tokens is 60, fewer than .* raise it"):
            request(HOSTILE[name], 60)
    assert request(HOSTILE["long beside short"], 60)
    short = {"anyOf": [{"type": "string", "minLength": 500}, {"type": "object"}]}
    assert request(short, 8).task.config.max_tokens == 8
    room = engine.language_model.context_length
    with pytest.raises(PromptTooLong, match="leaves room for 9 tokens"):
        request({"type": "string", "minLength": 60}, 100, room - 9)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 7919, "minimum": 1_000_000},
        {"type": "string", "pattern": "^[a-z ]*zebra$"},
        {"type": "object", "properties": {f"field_{n}": {} for n in range(1000)}},
    ],
)
def test_an_answer_whose_end_no_plan_finds_is_not_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, schema: dict[str, Any]
) -> None:
    vocabulary = vocabulary_of(tiny_tokenizer)
    ends = frozenset([vocabulary.end])
    assert not vocabulary.first_plan(grammar(schema), 60, ends).too_long
    constraint = Constraint(vocabulary, grammar(schema), 60, ends)
    value = {"integer": 1_005_713, "string": "a zebra", "object": {"field_7": "x"}}[schema["type"]]
    text = json.dumps(value, separators=(",", ":"))
    for token in tiny_tokenizer(text, add_special_tokens=False)["input_ids"]:
        assert constraint.mask(vocabulary.size)[token]
        assert constraint.take(token) == token
    assert constraint.mask(vocabulary.size)[vocabulary.end]


def test_a_plan_that_takes_too_long_to_find_leaves_the_answer_without_one(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "string", "minLength": 1001}
    vocabulary = vocabulary_of(tiny_tokenizer)
    monkeypatch.setattr(grammars, "_FIRST_STEPS", 100)
    plan = vocabulary.first_plan(grammar(schema), 2000, frozenset())
    assert (plan.tokens, plan.too_long) == (None, False)
    constraint = Constraint(vocabulary, grammar(schema), 2000, frozenset())
    token = int(constraint.mask(vocabulary.size).nonzero()[0])
    assert constraint.take(token) == token


def test_tokens_of_a_known_plan_are_taken_without_planning(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    vocabulary = vocabulary_of(tiny_tokenizer)
    constraint = Constraint(vocabulary, grammar(TREE), 60, frozenset())
    *plan, _ = vocabulary.first_plan(grammar(TREE), 60, frozenset()).tokens or ()
    assert [constraint.take(token) for token in plan] == plan
    assert constraint.complete
    assert constraint._steps == constrained_decoding._MOST_STEPS


def test_a_tokenizer_without_an_end_of_text_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ArgumentError, match="eos_token"):
        vocabulary_of(tokenizer)
