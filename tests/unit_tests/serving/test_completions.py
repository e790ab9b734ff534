"""Answer requests as the same model does in process, and record the fine-tuning."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace

import pytest
from chromadb.api.client import SharedSystemClient
from endpoint import FINETUNE, NAME
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
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable, TableSettings
from langchain_sift.language_models.answer import Answer
from langchain_sift.serving import completions
from langchain_sift.serving.messages import to_langchain
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.decoding import AnswerDecoder

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "Who repairs the broken clock near the border?"
MODES = ["base", "rag", "ttft", "both"]
LIMITS = Limits(max_batch_size=1)


@pytest.fixture(scope="module")
def store(filled_folder, tiny_model_path):
    """Open the same texts without the service."""
    chroma = Chroma("texts", persist_directory=str(filled_folder))
    embeddings = HiddenStateEmbeddings.from_collection_metadata(
        chroma._collection.metadata, model=load_language_model(tiny_model_path, dtype="float32")
    )
    yield Chroma("texts", embeddings, persist_directory=str(filled_folder))
    SharedSystemClient.clear_system_cache()


@pytest.fixture(scope="module")
def retriever(store):
    return SIFTRetriever(vectorstore=store, k=3, fetch_k=20)


@pytest.fixture(scope="module")
def models(tiny_model_path, retriever):
    shared = {
        "model": str(tiny_model_path),
        "dtype": "float32",
        "retriever": retriever,
        "finetune": FINETUNE,
        "limits": LIMITS,
        "max_tokens": 8,
    }
    return {CHAT: ChatTestTimeFineTuned(**shared), TEXT: TestTimeFineTunedLLM(**shared)}


@pytest.fixture(scope="module")
def service(new_service):
    return new_service(limits=LIMITS)


def body_for(route, question=QUESTION, **more):
    prompt = (
        {"messages": [{"role": "user", "content": question}]}
        if route == CHAT
        else {"prompt": question}
    )
    return {"model": NAME, **prompt, **more}


async def complete(client, route, question=QUESTION, **more):
    response = await client.post(route, json=body_for(route, question, **more))
    assert response.status_code == 200, response.text
    completion = response.json()
    (choice,) = completion["choices"]
    text = choice["message"]["content"] if route == CHAT else choice["text"]
    return text or "", completion


async def stream(client, route, **more):
    """Return the events of a stream."""
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
    """Return the chain's prompt for a text model, which has no "Human:" before the text."""
    if route == CHAT:
        return None
    shown = "Use these documents to answer.\n\n{context}\n\n" if mode in {"rag", "both"} else ""
    return PromptTemplate.from_template(shown + "{input}")


@pytest.mark.slow
async def test_auto_names_settings_that_its_table_was_not_measured_with(new_service, connect):
    figures = {"base": ModeFigures(0.0, 1.0), "both": ModeFigures(0.5, 2.0)}
    table = ModeTable((ModeBin(1.0, 5, figures),), TableSettings(3, 0.5))
    service = new_service(k=3, noise_variance=0.5, modes=table)
    client = await connect(service)
    reasons = {}
    for k in (3, 2):
        ttft = {"mode": "auto", "k": k, **({"context_k": 1} if k == 2 else {})}
        _, response = await complete(client, CHAT, ttft=ttft)
        reasons[k] = response["ttft"]["mode_reason"]
        events = await stream(client, CHAT, ttft=ttft)
        streamed = [event["ttft"]["mode_reason"] for event in events if event.get("ttft")]
        assert reasons[k] in streamed
    assert reasons[3].endswith("σ up to 1")
    measured = "measured with k = 3, no context_k, and the settings here are k = 2, context_k"
    assert f"{measured} = 1: " in reasons[2]


@pytest.mark.slow
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_auto_answers_in_the_mode_that_it_chooses_and_says_why(client, route):
    text, response = await complete(client, route, ttft={"mode": "auto"})
    record = response["ttft"]
    assert (record["mode"], record["steps"]) == ("rag", 0)
    assert "documents fit into the prompt" in record["mode_reason"]
    context = record["context"]
    assert len(context) > 0
    ttft = {"mode": "auto", "k": 40, "fetch_k": 40}
    _, response = await complete(client, route, ttft=ttft)
    record = response["ttft"]
    assert (record["mode"], record["steps"] > 0) == ("both", True)
    _, response = await complete(client, route, ttft={"mode": "auto", "filter": {"tenant": "x"}})
    assert response["ttft"]["mode"] == "base"
    same, response = await complete(client, route, ttft={"mode": "rag"})
    assert response["ttft"]["mode_reason"] is None
    assert (same, response["ttft"]["context"]) == (text, context)


@pytest.mark.slow
@pytest.mark.parametrize("route", [CHAT, TEXT])
@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_equals_that_of_the_chain(client, models, retriever, route, mode):
    chain = create_ttft_chain(models[route], retriever, mode=mode, prompt=prompt_for(route, mode))
    expected = await chain.ainvoke({"input": QUESTION})
    text, response = await complete(client, route, ttft={"mode": mode})
    assert text == expected["answer"]
    record, ids = response["ttft"], [document.id for document in expected["context"]]
    assert record["mode"] == mode
    assert record["documents"] == (ids if mode in {"ttft", "both"} else [])
    assert record["context"] == (list(dict.fromkeys(ids)) if mode in {"rag", "both"} else [])
    assert record["fallback"] is None
    assert record["steps"] == len(record["documents"]) == len(record["losses"])
    events = await stream(client, route, ttft={"mode": mode})
    assert text_of(events, route) == expected["answer"]
    streamed = events[-1]["ttft"]
    for name in record.keys() - {"seconds"}:
        assert streamed[name] == record[name], name
    assert not any("ttft" in event for event in events[:-1])


async def test_the_record_equals_that_of_the_model(client, models):
    message = await models[CHAT].ainvoke(QUESTION)
    _, response = await complete(client, CHAT)
    expected = message.response_metadata["ttft"]
    for name in expected.keys() - {"seconds"}:
        assert response["ttft"][name] == pytest.approx(expected[name]), name
    usage = message.usage_metadata
    assert response["usage"] == {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert all(seconds >= 0 for seconds in response["ttft"]["seconds"].values())


@pytest.mark.parametrize("mode", ["rag", "both"])
async def test_the_record_has_gains_and_seconds_of_the_retrieval(client, retriever, mode):
    _, response = await complete(client, CHAT, ttft={"mode": mode, "k": 2})
    retrieval = retriever.retrieve_with_scores(QUESTION, k=2)
    gains = [choice.gain for choice in retrieval.choices] if mode == "both" else []
    assert response["ttft"]["gains"] == pytest.approx(gains)
    assert response["ttft"]["seconds"]["retrieval"] > 0


async def test_documents_are_in_the_last_question_of_a_conversation(client, models, retriever):
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
    question = f"Use these documents to answer.\n\n{document.page_content}\n\n{QUESTION}"
    expected = await models[CHAT].ainvoke(
        [*messages[:-1], {"role": "user", "content": question}], documents=[]
    )
    assert response.json()["choices"][0]["message"]["content"] == expected.text
    assert response.json()["usage"]["prompt_tokens"] == expected.usage_metadata["input_tokens"]


# Options


@pytest.mark.slow
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
async def test_retriever_options(client, retriever, options, settings):
    documents = await retriever.ainvoke(QUESTION, **settings)
    expected = [document.id for document in documents]
    _, response = await complete(client, TEXT, ttft=options)
    assert response["ttft"]["documents"] == expected
    _, response = await complete(client, TEXT, ttft={**options, "mode": "both"})
    assert response["ttft"]["documents"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rag", "both"])
async def test_the_prompt_has_the_most_informative_documents(client, retriever, mode):
    ids = [document.id for document in await retriever.ainvoke(QUESTION, k=5)]
    _, response = await complete(client, CHAT, ttft={"mode": mode, "k": 5, "context_k": 2})
    assert response["ttft"]["context"] == ids[:2]
    assert response["ttft"]["documents"] == (ids if mode == "both" else [])


async def test_a_server_limits_the_documents_in_the_prompt(new_service, connect, retriever):
    ids = [document.id for document in await retriever.ainvoke(QUESTION)]
    served = new_service(context_k=1, ceilings={"context_k": 2}, mode="both")
    client = await connect(served)
    for options, count in (({}, 1), ({"context_k": 2}, 2), ({"mode": "rag"}, 1)):
        _, response = await complete(client, CHAT, ttft=options)
        assert response["ttft"]["context"] == ids[:count]
    for options, message in (
        ({"context_k": 3}, "ttft.context_k: this server allows at most 2"),
        ({"context_k": 2, "mode": "ttft"}, "mode 'ttft' puts no document into the prompt"),
        ({"context_k": 0}, "greater than or equal to 1"),
    ):
        response = await client.post(CHAT, json=body_for(CHAT, ttft=options))
        assert response.status_code == 400
        assert message in response.json()["error"]["message"]
    _, response = await complete(client, CHAT, ttft={"mode": "ttft"})  # the default does not matter
    assert response["ttft"]["context"] == []
    limited = await connect(new_service(ceilings={"context_k": 1}, mode="both"))
    _, response = await complete(limited, CHAT)  # nothing is set
    assert response["ttft"]["context"] == ids[:1]
    body = body_for(CHAT, ttft={"context_k": 1, "session": "new", "mode": "ttft"})
    response = await limited.post(CHAT, json=body)
    assert 'leave it out, or set mode to "both"' in response.json()["error"]["message"]


async def test_each_answer_and_a_session_have_the_same_documents_in_the_prompt(client, retriever):
    ids = [document.id for document in await retriever.ainvoke(QUESTION)]
    options = {"mode": "both", "context_k": 1}
    one = await client.post(CHAT, json=body_for(CHAT, ttft=options))
    two = await client.post(CHAT, json=body_for(CHAT, ttft=options, n=2))
    tokens = [response.json()["usage"]["prompt_tokens"] for response in (one, two)]
    assert tokens[0] == tokens[1]
    _, first = await complete(client, CHAT, ttft={**options, "session": "new"})
    _, second = await complete(client, CHAT, ttft={**options, "session": first["ttft"]["session"]})
    assert first["ttft"]["context"] == second["ttft"]["context"] == ids[:1]


async def test_fine_tuning_options(client, models):
    for options, steps in (
        ({"max_documents": 2}, 2),
        ({"steps_per_document": 3}, 9),
        ({"max_train_tokens": 1}, 0),
        ({"learning_rate": 0.5, "k": 2}, 2),
    ):
        text, response = await complete(client, TEXT, ttft=options)
        expected = await models[TEXT].agenerate([QUESTION], **options)
        assert text == expected.generations[0][0].text
        assert response["ttft"]["steps"] == steps


@pytest.mark.parametrize("mode", ["ttft", "both"])
async def test_min_gain_skips_the_training(client, retriever, mode):
    choices = retriever.retrieve_with_scores(QUESTION).choices
    gain = sum(choice.gain for choice in choices)
    for min_gain, steps in ((gain * 0.99, len(choices)), (gain * 1.01, 0)):
        _, response = await complete(client, TEXT, ttft={"mode": mode, "min_gain": min_gain})
        assert response["ttft"]["steps"] == steps
        assert ("gain" in (response["ttft"]["fallback"] or "")) == (steps == 0)


async def test_a_request_cannot_raise_the_server_s_training_limits(new_service, connect):
    limited = replace(FINETUNE, max_train_tokens=40)
    client = await connect(new_service(finetune=limited))
    _, own = await complete(client, TEXT)
    _, more = await complete(client, TEXT, ttft={"max_train_tokens": 10_000})
    assert own["ttft"]["tokens"] == more["ttft"]["tokens"] <= 40
    _, less = await complete(client, TEXT, ttft={"max_train_tokens": 20})
    assert less["ttft"]["tokens"] <= 20


@pytest.mark.slow
async def test_a_json_object_is_complete_within_max_tokens(client):
    asked = {"response_format": {"type": "json_object"}, "max_tokens": 24, "seed": 1}
    text, response = await complete(client, CHAT, temperature=1, **asked)
    assert isinstance(json.loads(text), dict)
    assert response["choices"][0]["finish_reason"] == "stop"
    assert response["ttft"]["shortened"]
    events = await stream(client, CHAT, temperature=1, **asked)
    assert text_of(events, CHAT) == text


@pytest.mark.slow
async def test_generation_options(client, models):
    text, response = await complete(client, TEXT, max_tokens=3)
    assert response["usage"]["completion_tokens"] == 3
    assert response["choices"][0]["finish_reason"] == "length"
    whole, _ = await complete(client, TEXT)
    assert whole.startswith(text)
    stop = whole[3:5]
    cut, response = await complete(client, TEXT, stop=stop)
    assert cut == whole[: whole.index(stop)]
    assert response["choices"][0]["finish_reason"] == "stop"
    _, response = await complete(client, CHAT, max_tokens=3, max_completion_tokens=2)
    assert response["usage"]["completion_tokens"] == 2
    for seed in (7, -7):
        texts = {(await complete(client, TEXT, temperature=1.5, seed=seed))[0] for _ in range(3)}
        assert len(texts) == 1
    sampling = {"temperature": 1.5, "seed": 7}
    penalties = {"repetition_penalty": 1.5, "frequency_penalty": 1, "presence_penalty": -1}
    answers = set()
    for asked in (sampling, {**sampling, "top_p": 0.5, "top_k": 9, "min_p": 0.01}, penalties):
        expected = await models[TEXT].agenerate([QUESTION], **asked)
        answers.add((await complete(client, TEXT, **asked))[0])
        assert expected.generations[0][0].text in answers
    assert len(answers) == 3


@pytest.fixture(scope="module")
def hasty_service(new_service):
    return new_service(timeout=1e-9)  # it has passed at once


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_a_passed_timeout_is_reported(hasty_service, connect, client, route, mode):
    hasty = await connect(hasty_service)
    for streamed in (False, True):
        body = body_for(route, stream=streamed, max_tokens=200)
        for requester, timeout, status, param in (
            (client, 1e-9, 408, "ttft.timeout"),  # the request's timeout
            (hasty, None, 504, None),  # the server's timeout
        ):
            options = {"mode": mode, "timeout": timeout}
            response = await requester.post(route, json={**body, "ttft": options})
            assert response.status_code == status, response.text
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("timeout", param)
            assert "within 1e-09 s" in error["message"]
            assert response.headers["x-should-retry"] == "false"


async def test_messages_are_converted_outside_the_event_loop(client, monkeypatch):
    threads = []

    def spied(messages):
        threads.append(threading.current_thread())
        return to_langchain(messages)

    monkeypatch.setattr(completions, "to_langchain", spied)
    await complete(client, CHAT)
    await stream(client, CHAT)
    assert len(threads) == 2
    assert threading.current_thread() not in threads


# Streams


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_a_stream_includes_its_usage_on_request(client, route):
    _, response = await complete(client, route)
    events = await stream(client, route, stream_options={"include_usage": True})
    *chunks, last = events
    assert last["choices"] == []
    assert last["usage"] == response["usage"]
    assert last["ttft"]["documents"] == response["ttft"]["documents"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (
        len(chunks) - 1
    ) + ["length"]
    assert len({chunk["id"] for chunk in events}) == 1
    without = await stream(client, route)
    assert "usage" not in without[-1]
    if route == CHAT:
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_an_error_during_a_stream_is_its_last_event(client, service, monkeypatch):
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


async def test_a_loss_that_is_not_finite_is_null(client, monkeypatch):
    metadata = Answer.metadata.fget

    def broken(answer):
        return {**metadata(answer), "losses": [float("nan")], "update_norm": float("inf")}

    monkeypatch.setattr(Answer, "metadata", property(broken))
    _, response = await complete(client, CHAT)
    assert response["ttft"]["losses"] == [None]
    events = await stream(client, CHAT)
    assert events[-1]["ttft"]["losses"] == [None]


# The description


async def test_the_openapi_description_is_complete(client):
    described = (await client.get("/openapi.json")).json()
    paths = described["paths"]
    models = {"/v1/models", "/v1/models/{model_id}", "/v1/responses"}
    sessions = {"/v1/ttft/sessions", "/v1/ttft/sessions/{session_id}"}
    assert {*paths} == {CHAT, TEXT, "/v1/embeddings", *models, *sessions, "/health", "/metrics"}
    responses = paths[CHAT]["post"]["responses"]
    assert {*responses} == {
        "200", "400", "401", "403", "404", "408", "413", "415", "429", "500", "503", "504",
    }  # fmt: skip
    options = described["components"]["schemas"]["TTFTOptions"]
    assert options["additionalProperties"] is False
    assert {*options["properties"]} == {*TTFTOptions.model_fields}


async def test_the_model_list_has_the_served_model(client, service):
    listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == [NAME]
    model = (await client.get(f"/v1/models/{NAME}")).json()
    assert model == listed["data"][0]
    assert re.fullmatch(r"\d{10}", str(model["created"]))
    del service


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_more_documents_than_the_context_holds_are_left_out_and_named(client, route):
    _, response = await complete(client, route, ttft={"mode": "rag", "k": 30, "fetch_k": 30})
    record = response["ttft"]
    assert record["context"]
    assert record["context_left_out"]
    assert len({*record["context"], *record["context_left_out"]}) == 30
    assert response["usage"]["prompt_tokens"] < 256
    events = await stream(client, route, ttft={"mode": "rag", "k": 30, "fetch_k": 30})
    assert events[-1]["ttft"]["context_left_out"] == record["context_left_out"]
