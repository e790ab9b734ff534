"""Reasoning over HTTP, as vLLM's clients expect it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from endpoint import make_settings
from unit_tests.scripted_model import scripted_model
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import QWEN_3

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, TestTimeFineTunedLLM
from langchain_sift.serving import Service
from langchain_sift.serving.admitted import TenantView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHAT = "/v1/chat/completions"
SAID = "<think>\nRice?\n\nIn fields.\n</think>\n\nIn wet fields.<|im_end|>"


@pytest.fixture
def said() -> str:
    return SAID


@pytest.fixture
async def client(
    service: Service, connect: Callable[..., Any], tiny_model_path: Path, said: str
) -> Any:
    """Connect to a service of a model that says a text."""
    (view,) = service._views.values()
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    fields: dict[str, Any] = {
        "model": scripted_model(tokenizer, said),
        "tokenizer": tokenizer,
        "finetune": FineTuneConfig(lora_rank=2),
    }
    thinking = TenantView(
        view.tenant,
        view.retriever,
        ChatTestTimeFineTuned(**fields),
        TestTimeFineTunedLLM(**fields),
        view.embeddings,
    )
    settings = make_settings(tiny_model_path, tiny_model_path, mode="base")
    return await connect(Service(settings, {view.tenant.name: thinking}, ExitStack()))


async def ask(client: Any, **options: Any) -> dict[str, Any]:
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    messages = [{"role": "user", "content": "Where?"}]
    response = await client.post(CHAT, json={"model": model, "messages": messages, **options})
    assert response.status_code == 200, response.text
    if not options.get("stream"):
        return dict(response.json())
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return {
        name: "".join(delta.get(name, "") for delta in deltas)
        for name in ("content", "reasoning_content")
    }


async def test_reasoning_has_a_field_of_its_own(client: Any) -> None:
    expected = {"content": "In wet fields.", "reasoning_content": "Rice?\n\nIn fields."}
    response = await ask(client)
    message = response["choices"][0]["message"]
    assert {name: message[name] for name in expected} == expected
    assert await ask(client, stream=True) == expected


async def test_tokens_of_the_reasoning_are_counted(client: Any) -> None:
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    expected = len(tokenizer.encode(SAID.partition("In wet")[0]))
    usage = (await ask(client))["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == expected
    twice = (await ask(client, n=2))["usage"]
    assert twice["completion_tokens_details"]["reasoning_tokens"] == 2 * expected
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    for most, tokens, status in ((None, expected, "completed"), (4, 4, "incomplete")):
        body = {"model": model, "input": "Where?", "max_output_tokens": most}
        whole = (await client.post("/v1/responses", json=body)).json()
        stream = await client.post("/v1/responses", json={**body, "stream": True})
        events = [line for line in stream.text.splitlines() if line.startswith("data: {")]
        last = json.loads(events[-1].removeprefix("data: "))
        for response in (whole, last["response"]):
            assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == tokens
            assert response["output"][-1]["status"] == status


async def test_an_answer_cut_in_its_reasoning_is_empty(client: Any) -> None:
    choice = (await ask(client, max_tokens=4))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning_content"]


@pytest.mark.parametrize("said", ["<|im_end|>"])
async def test_an_empty_answer_is_a_message_in_a_stream_too(client: Any) -> None:
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    body = {"model": model, "input": "Where?"}
    whole = (await client.post("/v1/responses", json=body)).json()
    stream = await client.post("/v1/responses", json={**body, "stream": True})
    lines = [line for line in stream.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    for response in (whole, events[-1]["response"]):
        (message,) = response["output"]
        assert (message["type"], message["status"]) == ("message", "completed")
        assert [part["text"] for part in message["content"]] == [""]
    (done,) = [event for event in events if event["type"] == "response.output_item.done"]
    assert done["item"] == events[-1]["response"]["output"][0]


async def test_arguments_reach_the_template(client: Any) -> None:
    tokens = (await ask(client))["usage"]["prompt_tokens"]
    for options in (
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
    ):
        assert (await ask(client, **options))["usage"]["prompt_tokens"] > tokens
    assert (await ask(client, reasoning_effort="low"))["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize("names", [["x" * 65], [f"x{n}" for n in range(17)]], ids=len)
async def test_names_of_arguments_are_few_and_short(client: Any, names: list[str]) -> None:
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    arguments = dict.fromkeys(names, 1)
    response = await client.post(CHAT, json={**body, "chat_template_kwargs": arguments})
    assert response.status_code == 400


async def test_an_argument_that_is_taken_is_refused(client: Any) -> None:
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    response = await client.post(CHAT, json={**body, "chat_template_kwargs": {"messages": []}})
    assert response.status_code == 400
    assert "cannot set 'messages'" in response.text
