"""What is answered is what the same model answers in process, and it is told what was learned."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from chromadb.api.client import SharedSystemClient
from endpoint import NAME, RECIPE
from langchain_chroma import Chroma
from langchain_core.prompts import PromptTemplate

from langchain_sift import (
    ChatTestTimeFineTuned,
    HiddenStateEmbeddings,
    Limits,
    SIFTRetriever,
    TestTimeFineTunedLLM,
    create_ttft_chain,
)
from langchain_sift.language_models.answer import Answer
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.decoding import AnswerDecoder

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "Who repairs the broken clock near the border?"
MODES = ["base", "rag", "ttft", "both"]
LIMITS = Limits(max_batch_size=1)


@pytest.fixture(scope="module")
def store(filled_folder, tiny_model_path):
    """Return the same texts, opened without the service."""
    found = Chroma("texts", persist_directory=str(filled_folder))
    embeddings = HiddenStateEmbeddings.from_collection_metadata(
        found._collection.metadata, model=load_language_model(tiny_model_path, dtype="float32")
    )
    yield Chroma("texts", embeddings, persist_directory=str(filled_folder))
    SharedSystemClient.clear_system_cache()


@pytest.fixture(scope="module")
def retriever(store):
    return SIFTRetriever(vectorstore=store, k=3, fetch_k=20, noise_variance=1.0)


@pytest.fixture(scope="module")
def faces(tiny_model_path, retriever):
    shared = {
        "model": str(tiny_model_path),
        "dtype": "float32",
        "retriever": retriever,
        "finetune": RECIPE,
        "limits": LIMITS,
        "max_tokens": 8,
    }
    return {CHAT: ChatTestTimeFineTuned(**shared), TEXT: TestTimeFineTunedLLM(**shared)}


@pytest.fixture(scope="module")
def service(open_app):
    return open_app(limits=LIMITS)


def body_for(route, question=QUESTION, **more):
    asked = (
        {"messages": [{"role": "user", "content": question}]}
        if route == CHAT
        else {"prompt": question}
    )
    return {"model": NAME, **asked, **more}


async def ask(client, route, question=QUESTION, **more):
    response = await client.post(route, json=body_for(route, question, **more))
    assert response.status_code == 200, response.text
    found = response.json()
    (choice,) = found["choices"]
    text = choice["message"]["content"] if route == CHAT else choice["text"]
    return text or "", found


async def stream(client, route, **more):
    """Return the events of a stream, as a client reads them."""
    async with client.stream("POST", route, json=body_for(route, stream=True, **more)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def text_of(events, route):
    choices = [event["choices"][0] for event in events if event["choices"]]
    if route == CHAT:
        return "".join(choice["delta"].get("content", "") for choice in choices)
    return "".join(choice["text"] for choice in choices)


def prompt_for(route, mode):
    """Return what the chain asks a text model: the text itself, with no "Human:" before it."""
    if route == CHAT:
        return None
    shown = "Use these documents to answer.\n\n{context}\n\n" if mode in {"rag", "both"} else ""
    return PromptTemplate.from_template(shown + "{input}")


@pytest.mark.parametrize("route", [CHAT, TEXT])
@pytest.mark.parametrize("mode", MODES)
async def test_the_answer_is_that_of_the_chain_in_process(client, faces, retriever, route, mode):
    chain = create_ttft_chain(faces[route], retriever, mode=mode, prompt=prompt_for(route, mode))
    expected = await chain.ainvoke({"input": QUESTION})
    text, found = await ask(client, route, ttft={"mode": mode})
    assert text == expected["answer"]
    record, ids = found["ttft"], [document.id for document in expected["context"]]
    assert record["mode"] == mode
    assert record["documents"] == (ids if mode in {"ttft", "both"} else [])
    assert record["context"] == (list(dict.fromkeys(ids)) if mode in {"rag", "both"} else [])
    assert record["fallback"] is None
    assert record["steps"] == len(record["documents"]) == len(record["losses"])
    events = await stream(client, route, ttft={"mode": mode})
    assert text_of(events, route) == expected["answer"]
    told = events[-1]["ttft"]
    for name in record.keys() - {"seconds"}:
        assert told[name] == record[name], name
    assert not any("ttft" in event for event in events[:-1])


async def test_the_record_is_that_of_the_face_in_process(client, faces):
    message = await faces[CHAT].ainvoke(QUESTION)
    _, found = await ask(client, CHAT)
    expected = message.response_metadata["ttft"]
    for name in expected.keys() - {"seconds"}:
        assert found["ttft"][name] == pytest.approx(expected[name]), name
    usage = message.usage_metadata
    assert found["usage"] == {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    assert all(seconds >= 0 for seconds in found["ttft"]["seconds"].values())


@pytest.mark.parametrize("mode", ["rag", "both"])
async def test_the_gains_are_told_where_the_prompt_shows_the_documents(client, retriever, mode):
    _, found = await ask(client, CHAT, ttft={"mode": mode, "k": 2})
    retrieval = retriever.retrieve_with_scores(QUESTION, k=2, replace=mode == "both")
    gains = [choice.gain for choice in retrieval.choices] if mode == "both" else []
    assert found["ttft"]["gains"] == pytest.approx(gains)
    assert found["ttft"]["seconds"]["retrieval"] > 0


async def test_documents_are_shown_in_the_last_question_of_a_conversation(client, faces, retriever):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What does a baker sell?"},
        {"role": "assistant", "content": "Small seeds."},
        {"role": "user", "content": QUESTION},
    ]
    response = await client.post(
        CHAT, json={"model": NAME, "messages": messages, "ttft": {"mode": "rag", "k": 1}}
    )
    (document,) = await retriever.ainvoke(QUESTION, k=1)
    asked = f"Use these documents to answer.\n\n{document.page_content}\n\n{QUESTION}"
    expected = await faces[CHAT].ainvoke(
        [*messages[:-1], {"role": "user", "content": asked}], documents=[]
    )
    assert response.json()["choices"][0]["message"]["content"] == expected.text
    assert response.json()["usage"]["prompt_tokens"] == expected.usage_metadata["input_tokens"]


# Options


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"k": 5}, {"k": 5}),
        ({"noise_variance": 0.01}, {"noise_variance": 0.01}),
        ({"fetch_k": 4}, {"fetch_k": 4}),
        ({"stopping_alpha": 0.9, "k": 10}, {"stopping_alpha": 0.9, "k": 10}),
        ({"filter": {"tenant": "a"}}, {"filter": {"tenant": "a"}}),
        (
            {"filter": {"tenant": "a", "number": {"$gte": 30}}},
            {"filter": {"tenant": "a", "number": {"$gte": 30}}},
        ),
    ],
    ids=str,
)
async def test_options_of_the_retriever(client, retriever, options, settings):
    expected = [one.id for one in await retriever.ainvoke(QUESTION, replace=True, **settings)]
    _, found = await ask(client, TEXT, ttft=options)
    assert found["ttft"]["documents"] == expected
    _, found = await ask(client, TEXT, ttft={**options, "mode": "both"})
    assert found["ttft"]["documents"] == expected


async def test_options_of_the_recipe(client, faces):
    for options, steps in (
        ({"max_documents": 2}, 2),
        ({"steps_per_document": 3}, 9),
        ({"max_train_tokens": 1}, 0),
        ({"learning_rate": 0.5, "k": 2}, 2),
    ):
        text, found = await ask(client, TEXT, ttft=options)
        expected = await faces[TEXT].agenerate([QUESTION], **options)
        assert text == expected.generations[0][0].text
        assert found["ttft"]["steps"] == steps


@pytest.mark.parametrize("mode", ["ttft", "both"])
async def test_documents_that_bring_too_little_are_not_learned_from(client, retriever, mode):
    choices = retriever.retrieve_with_scores(QUESTION, replace=True).choices
    gain = sum(choice.gain for choice in choices)
    for least, steps in ((gain * 0.99, len(choices)), (gain * 1.01, 0)):
        _, found = await ask(client, TEXT, ttft={"mode": mode, "min_gain": least})
        assert found["ttft"]["steps"] == steps
        assert ("gain" in (found["ttft"]["fallback"] or "")) == (steps == 0)


async def test_a_request_learns_no_more_than_the_server_allows(open_app, connect):
    modest = replace(RECIPE, max_train_tokens=40)
    client = await connect(open_app(finetune=modest))
    _, own = await ask(client, TEXT)
    _, more = await ask(client, TEXT, ttft={"max_train_tokens": 10_000})
    assert own["ttft"]["tokens"] == more["ttft"]["tokens"] <= 40
    _, less = await ask(client, TEXT, ttft={"max_train_tokens": 20})
    assert less["ttft"]["tokens"] <= 20


async def test_options_of_the_answer(client, faces):
    text, found = await ask(client, TEXT, max_tokens=3)
    assert found["usage"]["completion_tokens"] == 3
    assert found["choices"][0]["finish_reason"] == "length"
    whole, _ = await ask(client, TEXT)
    assert whole.startswith(text)
    stop = whole[3:5]
    cut, found = await ask(client, TEXT, stop=stop)
    assert cut == whole[: whole.index(stop)]
    assert found["choices"][0]["finish_reason"] == "stop"
    _, found = await ask(client, CHAT, max_tokens=3, max_completion_tokens=2)
    assert found["usage"]["completion_tokens"] == 2
    for seed in (7, -7):
        texts = {(await ask(client, TEXT, temperature=1.5, seed=seed))[0] for _ in range(3)}
        assert len(texts) == 1
    expected = await faces[TEXT].agenerate([QUESTION], temperature=1.5, seed=7)
    assert (await ask(client, TEXT, temperature=1.5, seed=7))[0] == expected.generations[0][0].text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_what_takes_too_long_is_told_as_such(open_app, connect, client, route, mode):
    hasty = await connect(open_app(timeout=1e-3))
    for streamed in (False, True):
        body = body_for(route, stream=streamed, max_tokens=200)
        for asked, timeout, status, param in (
            (client, 1e-3, 408, "ttft.timeout"),  # the client's own, and the server's
            (hasty, None, 504, None),
        ):
            options = {"mode": mode, "timeout": timeout}
            response = await asked.post(route, json={**body, "ttft": options})
            assert response.status_code == status, response.text
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("timeout", param)
            assert response.headers["x-should-retry"] == "false"


# Streams


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_a_stream_tells_its_usage_where_it_is_asked_to(client, route):
    _, found = await ask(client, route)
    events = await stream(client, route, stream_options={"include_usage": True})
    *chunks, last = events
    assert last["choices"] == []
    assert last["usage"] == found["usage"]
    assert last["ttft"]["documents"] == found["ttft"]["documents"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (
        len(chunks) - 1
    ) + ["length"]
    assert len({chunk["id"] for chunk in events}) == 1
    without = await stream(client, route)
    assert "usage" not in without[-1]
    if route == CHAT:
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(client, service, monkeypatch):
    add, taken = AnswerDecoder.add, []

    def fail(decoder, token_id):
        taken.append(token_id)
        if len(taken) == 6:
            raise RuntimeError("heliotrope")
        return add(decoder, token_id)

    monkeypatch.setattr(AnswerDecoder, "add", fail)
    for route in (CHAT, TEXT):
        taken.clear()
        *chunks, last = await stream(client, route)
        assert chunks
        assert last["error"]["code"] == "internal_error"
        assert "heliotrope" not in json.dumps(last)
    assert service.engine.status().admitted == 0


async def test_a_loss_that_is_no_number_is_null(client, monkeypatch):
    told = Answer.metadata.fget

    def broken(answer):
        return {**told(answer), "losses": [float("nan")], "update_norm": float("inf")}

    monkeypatch.setattr(Answer, "metadata", property(broken))
    _, found = await ask(client, CHAT)
    assert found["ttft"]["losses"] == [None]
    events = await stream(client, CHAT)
    assert events[-1]["ttft"]["losses"] == [None]


# The description


async def test_the_description_is_whole(client):
    described = (await client.get("/openapi.json")).json()
    paths = described["paths"]
    assert {*paths} == {CHAT, TEXT, "/v1/models", "/v1/models/{model_id}", "/health", "/metrics"}
    responses = paths[CHAT]["post"]["responses"]
    assert {*responses} == {
        "200", "400", "401", "403", "404", "408", "413", "429", "500", "503", "504",
    }  # fmt: skip
    options = described["components"]["schemas"]["TTFTOptions"]
    assert options["additionalProperties"] is False
    assert {*options["properties"]} == {*TTFTOptions.model_fields}


async def test_the_model_is_listed(client, service):
    listed = (await client.get("/v1/models")).json()
    assert [one["id"] for one in listed["data"]] == [NAME]
    one = (await client.get(f"/v1/models/{NAME}")).json()
    assert one == listed["data"][0]
    assert re.fullmatch(r"\d{10}", str(one["created"]))
    del service
