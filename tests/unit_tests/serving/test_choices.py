"""Several answers, several prompts, and log-probabilities, whole and in streams."""

from __future__ import annotations

import json

import pytest
import torch
from endpoint import NAME

from langchain_sift import Limits
from langchain_sift.serving import Service

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTIONS = ["Who repairs the broken clock near the border?", "The river"]
SAMPLED = {"temperature": 1.2, "seed": 5, "max_tokens": 5}


@pytest.fixture(scope="module")
def service(new_service) -> Service:
    # No two prompts have room to train at once.
    return new_service(limits=Limits(max_batch_size=1, max_requests=3, max_tokens=1))


def body_for(route, question=QUESTIONS[0], **more):
    prompt = (
        {"messages": [{"role": "user", "content": question}]}
        if route == CHAT
        else {"prompt": question}
    )
    return {"model": NAME, **prompt, **SAMPLED, **more}


async def complete(client, route, *arguments, **more):
    response = await client.post(route, json=body_for(route, *arguments, **more))
    assert response.status_code == 200, response.text
    return response.json()


async def stream(client, route, *arguments, **more):
    body = body_for(route, *arguments, stream=True, **more)
    async with client.stream("POST", route, json=body) as response:
        assert response.status_code == 200
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def texts_of(completion):
    return [
        choice["text"] if "text" in choice else choice["message"]["content"]
        for choice in completion["choices"]
    ]


def joined(events, of):
    """Return the pieces of each choice, joined."""
    found = {}
    for event in events:
        for choice in event["choices"]:
            piece = of(choice)
            index = choice["index"]
            found[index] = found[index] + piece if index in found else piece
    return [found[index] for index in sorted(found)]


def text_of(choice):
    return choice["text"] if "text" in choice else choice["delta"].get("content", "")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["base", "ttft", "both"])
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_several_answers_follow_one_training(client, route, mode):
    options = {"ttft": {"mode": mode, "k": 2}}
    alone = [await complete(client, route, **options, seed=5 + number) for number in range(3)]
    whole = await complete(client, route, **options, n=3)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert texts_of(whole) == [texts_of(one)[0] for one in alone]
    assert whole["ttft"]["documents"] == alone[0]["ttft"]["documents"]
    assert whole["ttft"]["steps"] == (0 if mode == "base" else 2)
    counts = [one["usage"]["completion_tokens"] for one in alone]
    assert whole["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == sum(counts)
    events = await stream(client, route, **options, n=3)
    assert joined(events, text_of) == texts_of(whole)
    assert events[-1]["ttft"]["documents"] == whole["ttft"]["documents"]
    ends = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    assert len(ends) == 3


async def test_several_prompts_are_answered_as_each_alone(client, service):
    alone = [await complete(client, TEXT, question) for question in QUESTIONS]
    prompts = [*QUESTIONS, *QUESTIONS[:1]]  # more than the engine admits at once
    whole = await complete(client, TEXT, prompts, n=2)
    firsts = [texts_of(one)[0] for one in alone]
    assert texts_of(whole)[::2] == [*firsts, firsts[0]]
    records = whole["ttft"]
    assert [record["documents"] for record in records[:2]] == [
        one["ttft"]["documents"] for one in alone
    ]
    events = await stream(client, TEXT, prompts, n=2, stream_options={"include_usage": True})
    assert joined(events, text_of) == texts_of(whole)
    assert events[-1]["usage"] == whole["usage"]
    assert len(events[-1]["ttft"]) == 3
    assert service.engine.status().admitted == 0


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
async def test_several_prompts_leave_room_to_other_requests(
    new_service, connect, monkeypatch, streamed
):
    service = new_service(limits=Limits(max_requests=4), mode="base")
    admission, taken = service.engine.admission, []
    admit = admission.admit

    def watch(tokens, **part):
        """Reserve room, and note how many places are taken."""
        reservation = admit(tokens, **part)
        taken.append(admission.requests)
        return reservation

    monkeypatch.setattr(admission, "admit", watch)
    client = await connect(service)
    body = body_for(TEXT, ["The river"] * 8, n=2, max_tokens=1, stream=streamed)
    response = await client.post(TEXT, json=body)
    assert response.status_code == 200, response.text
    assert len(taken) == 1 + 16
    assert max(taken) == 2


@pytest.mark.slow
async def test_a_conversation_needs_one_place_only(new_service, connect):
    service = new_service(limits=Limits(max_requests=1), retrieval_query="rewrite")
    client = await connect(service)
    turns = [("user", "The river"), ("assistant", "flows"), ("user", "And where?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    for mode in ("ttft", "both"):
        await complete(client, CHAT, messages=messages, n=2, ttft={"mode": mode, "k": 1})
    assert service.engine.status().admitted == 0


@pytest.mark.parametrize("mode", ["base", "ttft", "rag"])
async def test_token_ids_are_a_prompt(client, service, mode):
    tokenizer = service.engine.language_model.tokenizer
    ids = [tokenizer.encode(question) for question in QUESTIONS]
    options = {"ttft": {"mode": mode, "k": 2}}
    expected = await complete(client, TEXT, QUESTIONS, **options)
    found = await complete(client, TEXT, ids, **options)
    assert texts_of(found) == texts_of(expected)
    assert found["usage"] == expected["usage"]
    one = await complete(client, TEXT, ids[1], **options)
    assert texts_of(one) == texts_of(expected)[1:]


@pytest.mark.parametrize("max_tokens", [0, 3])
async def test_an_echo_has_the_model_s_own_log_probabilities(client, service, max_tokens):
    model = service.engine.language_model
    ids = model.tokenizer.encode(QUESTIONS[0])
    asked = {"echo": True, "logprobs": 2, "max_tokens": max_tokens, "ttft": {"mode": "base"}}
    response = await complete(client, TEXT, ids, **asked)
    (choice,) = response["choices"]
    logprobs = choice["logprobs"]
    with torch.inference_mode():
        log_p = model.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    expected = [float(log_p[place, token]) for place, token in enumerate(ids[1:])]
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-5)
    assert len(logprobs["tokens"]) == len(ids) + max_tokens
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["text"].startswith(QUESTIONS[0])
    assert response["usage"]["completion_tokens"] == max_tokens
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    for value, top in zip(
        logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True
    ):
        assert value in top.values()
        assert 2 <= len(top) <= 3
    text = await complete(client, TEXT, QUESTIONS[0], **asked)
    assert text["choices"] == response["choices"]
    events = await stream(client, TEXT, ids, **asked)
    assert joined(events, text_of) == [choice["text"]]
    for name, values in logprobs.items():
        (found,) = joined(events, lambda part, name=name: (part["logprobs"] or {}).get(name, []))
        assert found == values, name


@pytest.mark.parametrize("mode", ["base", "ttft"])
async def test_a_chat_has_log_probabilities(client, mode):
    asked = {"logprobs": True, "top_logprobs": 2, "ttft": {"mode": mode}}
    response = await complete(client, CHAT, **asked)
    (choice,) = response["choices"]
    content = choice["logprobs"]["content"]
    assert (
        b"".join(bytes(token["bytes"]) for token in content).decode(errors="replace")
        == (choice["message"]["content"])
    )
    assert len(content) == response["usage"]["completion_tokens"]
    for token in content:
        assert token["logprob"] <= token["top_logprobs"][0]["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
    events = await stream(client, CHAT, **asked)
    (found,) = joined(events, lambda part: (part["logprobs"] or {}).get("content", []))
    assert found == content
    without = await complete(client, CHAT, ttft={"mode": mode})
    assert without["choices"][0]["logprobs"] is None
    assert texts_of(without) == texts_of(response)


async def test_training_steps_are_sent_on_request(client):
    options = {"include_ttft_steps": True}
    for route in (CHAT, TEXT):
        events = await stream(client, route, stream_options=options, ttft={"k": 2})
        steps = [event["ttft_step"] for event in events if "ttft_step" in event]
        assert [step["number"] for step in steps] == [1, 2]
        assert [step["document"] for step in steps] == events[-1]["ttft"]["documents"]
        assert "ttft_step" in events[0]  # before the answer


async def test_a_request_that_fails_leaves_nothing_behind(client, service):
    for route, broken in (
        (TEXT, {"prompt": [[5], [1 << 20]]}),
        (CHAT, {"ttft": {"timeout": 1e-9}}),
    ):
        for streamed in (False, True):
            body = {**body_for(route), **broken, "n": 2, "stream": streamed}
            response = await client.post(route, json=body)
            assert response.status_code in {400, 408}, response.text
    assert service.engine.status().admitted == 0
