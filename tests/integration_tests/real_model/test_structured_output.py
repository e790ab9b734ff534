"""Objects and calls of a real model whose chat template has no place for tools."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from langchain_sift import ChatTestTimeFineTuned


class City(BaseModel):
    """A city."""

    name: Annotated[str, Field(max_length=20)]
    country: Literal["France", "Germany", "Italy"]
    population: Annotated[int, Field(ge=1000, le=50_000_000)]
    sights: Annotated[list[str], Field(min_length=1, max_length=3)]


@pytest.fixture(scope="module")
def chat(smollm2):
    return ChatTestTimeFineTuned(
        model=smollm2.model, tokenizer=smollm2.tokenizer, max_tokens=80, temperature=0
    )


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_an_object_is_returned(chat, method):
    city = chat.with_structured_output(City, method=method).invoke("Describe Paris as JSON.")
    assert isinstance(city, City)
    assert city.country == "France"


def test_a_required_call_and_a_json_object(chat):
    def get_weather(city: str, days: int) -> str:
        """Get the weather of a city for some days."""
        return city * days

    message = chat.bind_tools([get_weather], tool_choice="any").invoke("The weather in Rome?")
    (call,) = message.tool_calls
    assert call["name"] == "get_weather"
    assert "Rome" in call["args"]["city"]
    text = chat.bind(response_format={"type": "json_object"}).invoke("JSON about a dog?").text
    assert isinstance(json.loads(text), dict)


def test_a_strict_tool_is_called_with_valid_arguments_or_not_at_all(chat):
    def set_alarm(hour: Annotated[int, Field(ge=0, le=23)], label: Literal["work", "sport"]) -> str:
        """Set an alarm."""
        return f"{hour} {label}"

    bound = chat.bind_tools([set_alarm], strict=True)
    asked = ["Set an alarm for work at 7.", "Call set_alarm for sport at half past six, please."]
    for message in bound.batch(asked, max_tokens=48):
        assert message.tool_calls or message.text
        for call in message.tool_calls:
            assert set_alarm(**call["args"]) == f"{call['args']['hour']} {call['args']['label']}"
            assert 0 <= call["args"]["hour"] <= 23
            assert call["args"]["label"] in ("work", "sport")


def test_rows_with_and_without_a_schema_share_a_batch(chat):
    questions = ["What is the capital of Italy?", "Name three colours."]
    alone = [chat.invoke(question, max_tokens=16).text for question in questions]
    model = chat.bind(max_tokens=16, seed=1, temperature=1.0, top_p=0.9, top_k=20)
    sampled = model.invoke(questions[0]).text
    assert [answer.text for answer in chat.batch(questions, max_tokens=16)] == alone
    assert model.invoke(questions[0]).text == sampled
