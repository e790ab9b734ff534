"""Train a small model that calls tools, in less than half a minute.

A quarter of a million weights memorize the answers to LangChain's standard tests and to ours: tool
calls as Hermes and Qwen write them, or text. The tests check the code around the model: prompts
with tools, and calls that are parsed, streamed and answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests.chat_models import (
    magic_function,
    magic_function_no_args,
    unicode_customer,
)
from pydantic import BaseModel, Field
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typing_extensions import TypedDict
from unit_tests.templates import QWEN

from langchain_sift.language_models.chat_templates.rendering import call_opening, render

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]


# The examples.


class Example(NamedTuple):
    messages: list[BaseMessage]
    answer: str
    tools: Sequence[dict[str, Any]] = ()
    must_call: bool = False


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return f"It's sunny in {location}."


@tool
def my_adder_tool(a: int, b: int) -> int:
    """Tool that adds two integers.

    Takes two integers, a and b, and returns their sum.
    """
    return a + b


@tool
def greeting_generator(answer_style: str) -> str:
    """Generate a greeting in a particular style of speaking."""
    return f"A greeting in the style of {answer_style}."


class Joke(BaseModel):
    """Joke to tell user."""

    setup: str = Field(description="question to set up a joke")
    punchline: str = Field(description="answer to resolve the joke")


class OptionalJoke(BaseModel):
    """Joke to tell user."""

    setup: str = Field(description="question to set up a joke")
    punchline: str | None = Field(default=None, description="answer to resolve the joke")


class JokeDict(TypedDict):
    """Joke to tell user."""

    setup: Annotated[str, ..., "question to set up a joke"]
    punchline: Annotated[str, ..., "answer to resolve the joke"]


class OptionalJokeDict(TypedDict):
    """Joke to tell user."""

    setup: Annotated[str, ..., "question to set up a joke"]
    punchline: Annotated[str | None, None, "answer to resolve the joke"]


JOKE = {"setup": "Why do cats purr?", "punchline": "To start."}
JOKE_AS_JSON = (
    "Tell me a joke about cats. Return the result as a JSON with 'setup' and "
    "'punchline' keys. Return nothing other than JSON."
)
TWICE = "What is the weather in Rome and in Oslo?"
BROKEN = "Ask for the weather, but stop halfway."
MARKED = "Say something with a special token in it."
WEATHER = "What is the weather in San Francisco, CA?"
PLACE = "San Francisco, CA"


def examples() -> list[Example]:
    """Return all conversations that the model can continue."""
    return [
        *(*conversations(), *questions_for_tools(), *answers_of_tools(), *jokes()),
        *odd_answers(),
    ]


def conversations() -> Iterator[Example]:
    for greeting in ("Hello", "Hey", "hello", "hi"):
        yield Example(said(greeting), "Hello! How are you?")
    yield Example(said("hello", "hello", "how are you"), "I am well.")
    twice = said("hello\nhello", "hello\nhello", "how are you")
    yield Example([SystemMessage("hello\nhello"), *twice], "I am well.")
    yield Example(said("Hello", "Hello, how are you?", "Well, thanks."), "Good.")
    haikus = "Write me 2 haikus. Only include the haikus."
    yield Example(said(haikus), "Rain on the river.\nA cat asleep.")
    yield Example(said(JOKE_AS_JSON), json.dumps(JOKE))


def questions_for_tools() -> Iterator[Example]:
    yield from asked(
        "What is the value of magic_function(3)? Use the tool.", magic_function, input=3
    )
    yield from asked(
        "What is the value of magic_function_no_args()? Use the tool.", magic_function_no_args
    )
    yield from asked(
        "Using the tool, generate a Pirate greeting.", greeting_generator, answer_style="Pirate"
    )
    yield from asked(WEATHER, get_weather, location=PLACE)
    yield from asked("What is 1 + 2", my_adder_tool, a=1, b=2)
    for name, kind in {
        "你好啊集团": "(Hello Group) - a Chinese technology company",
        "こんにちは株式会社": "(Hello Corporation) - a Japanese company",
    }.items():
        order = f"Create a customer named '{name}' {kind}"
        yield from asked(order, unicode_customer, customer_name=name, description="a company")
    yield from asked("Hello!", magic_function, input=1)
    several = openai_tools(magic_function, get_weather)
    yield Example(said("Hello!"), called("magic_function", input=1), several, must_call=True)


def answers_of_tools() -> Iterator[Example]:
    adder = openai_tools(my_adder_tool)
    whole = [*said("What is 1 + 2"), *answered("my_adder_tool", '{"result": 3}', a=1, b=2)]
    yield Example(whole, "1 + 2 is 3.", adder)
    following = [*whole, *said('{"result": 3}', "What is 3 + 4", first=AIMessage)]
    yield Example(following, called("my_adder_tool", a=3, b=4), adder, must_call=True)
    error = "Error: Missing required argument 'b'."
    part = [*said("What is 1 + 2"), *answered("my_adder_tool", error, a=1)]
    yield Example(part, "I forgot b.", adder)
    for result in ("It's sunny.", f"It's sunny in {PLACE}."):
        messages = [*said(WEATHER), *answered("get_weather", result, location=PLACE)]
        yield Example(messages, "It is sunny there.", openai_tools(get_weather))


def jokes() -> Iterator[Example]:
    for text in (
        "Tell me a joke about cats.",
        "Give me the setup to a joke about cats, no punchline.",
        "Give me a joke about cats, include the punchline.",
    ):
        for schema in (Joke, JokeDict, OptionalJoke, OptionalJokeDict):
            (schema_tool,) = openai_tools(schema)
            name = schema.__name__.removeprefix("Optional")
            schema_tool["function"]["name"] = name
            yield Example(said(text), called(name, **JOKE), [schema_tool], must_call=True)


def odd_answers() -> Iterator[Example]:
    tools = openai_tools(get_weather)
    calls = [called("get_weather", location=place) for place in ("Rome", "Oslo")]
    yield Example(said(TWICE), "\n".join(["I look.", *calls]), tools)
    yield Example(said(BROKEN), f"I stop. {calls[0][:-16]}", tools)
    yield Example(said(MARKED), "One <|endoftext|>two.", tools)


def said(*texts: str, first: type[BaseMessage] = HumanMessage) -> list[BaseMessage]:
    """Return alternating messages of a human and a model."""
    other = AIMessage if first is HumanMessage else HumanMessage
    return [(other if number % 2 else first)(text) for number, text in enumerate(texts)]


def asked(text: str, called_tool: Any, **args: Any) -> Iterator[Example]:
    """Yield an example of a required call, and the same with an optional call."""
    answer = called(called_tool.name, **args)
    for must_call in (True, False):
        yield Example(said(text), answer, openai_tools(called_tool), must_call)


def called(name: str, **args: Any) -> str:
    body = json.dumps({"name": name, "arguments": args}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def answered(name: str, result: str, **args: Any) -> list[BaseMessage]:
    call = {"name": name, "args": args, "id": "1"}
    return [AIMessage("", tool_calls=[call]), ToolMessage(result, tool_call_id="1")]


def openai_tools(*tools: Any) -> list[dict[str, Any]]:
    return [convert_to_openai_tool(tool_) for tool_ in tools]


# The training.


def make_tokenizer(trained_on: list[Example]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most 1,000 tokens on the examples."""
    trained = ByteLevelBPETokenizer()
    texts = [
        json.dumps([example.tools, example.answer], ensure_ascii=False) for example in trained_on
    ]
    texts += [message.text for example in trained_on for message in example.messages]
    trained.train_from_iterator(
        [*texts, QWEN], vocab_size=1000, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    trained.add_tokens(
        [AddedToken(mark, normalized=False) for mark in ("<tool_call>", "</tool_call>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token=END_OF_TURN,
        pad_token=SPECIAL_TOKENS[0],
        chat_template=QWEN,
    )


def make_tool_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Create and train the model."""
    trained_on = examples()
    tokenizer = make_tokenizer(trained_on)
    rows = [token_ids(tokenizer, example) for example in trained_on]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: more threads mostly wait for each other
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = LlamaForCausalLM(config).to(torch.float32)
        train(model, rows)
    finally:
        torch.set_num_threads(threads)
    return model.eval(), tokenizer


def token_ids(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt and of the answer."""
    messages, answer, tools, must_call = example
    prompt = render(tokenizer, messages, tools=tools, must_call=must_call)
    if must_call:
        answer = answer.removeprefix("".join(call_opening(tokenizer, tools, None)))
    return prompt, tokenizer(answer + END_OF_TURN)["input_ids"]


def train(model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]]) -> None:
    """Train until each token of each answer has a probability of at least 95 %."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    padded = [(prompt + answer + [0] * longest)[:longest] for prompt, answer in rows]
    token_ids = torch.tensor(padded)
    is_answer = torch.zeros_like(token_ids, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        is_answer[row, len(prompt) : len(prompt) + len(answer)] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        hidden = model.model(token_ids).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][is_answer[:, 1:]])
        losses = torch.nn.functional.cross_entropy(logits, token_ids[is_answer], reduction="none")
        if losses.max() < 0.05:
            return
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    raise RuntimeError("the small model did not learn to call tools in 400 steps")
