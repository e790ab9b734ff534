"""What ordinary clients need besides the answers: CORS, ceilings, continued answers, embeddings."""

from __future__ import annotations

import asyncio
import base64
import threading
from dataclasses import replace

import numpy as np
import pytest
from endpoint import NAME, SECONDS

from langchain_sift import FineTuneConfig
from langchain_sift.errors import ArgumentError, RequestTimeout
from langchain_sift.serving import ServingSettings, Tenants
from langchain_sift.serving.text_embeddings import EmbeddingRequest, embed

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KEY = "a-key-that-is-long-enough"
PAGE = "https://app.example:8443"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(scope="module")
def service(new_service):
    return new_service(
        cors_origins=(PAGE,),
        tenants=Tenants.of_one_key(KEY),
        ceilings={"k": 3, "steps_per_document": 2, "timeout": 60, "learning_rate": 0.1}
        | {"max_tokens": 8, "n": 2, "prompts": 2},
    )


@pytest.fixture
async def client(service, connect):
    return await connect(service, token=KEY)


def chat(messages, **more):
    return {"model": NAME, "messages": messages, "ttft": {"mode": "base"}, **more}


# Pages of other origins


async def test_a_page_of_a_named_origin_may_send_requests(service, connect):
    client = await connect(service)  # a preflight request has no token
    response = await client.options(CHAT, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in response.headers["access-control-allow-headers"]
    refused = await client.options(CHAT, headers={**PREFLIGHT, "Origin": "https://other.example"})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    # A page can read an error, too.
    response = await client.post(CHAT, json={}, headers={"Origin": PAGE})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == PAGE


async def test_without_origins_there_is_no_cors(new_service, connect):
    client = await connect(new_service())
    response = await client.options(CHAT, headers=PREFLIGHT)
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", ["*", "null"])
def test_pages_of_any_origin_need_a_token(origin):
    with pytest.raises(ArgumentError, match="require tokens"):
        ServingSettings("model", "store", cors_origins=[origin])
    ServingSettings("model", "store", cors_origins=[origin], tenants=Tenants.of_one_key(KEY))


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "", "https://"])
def test_an_origin_is_a_scheme_and_a_host(origin):
    with pytest.raises(ArgumentError, match=r"an origin is|cors_origins must be"):
        ServingSettings("model", "store", cors_origins=[origin])


# Ceilings


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 4), ("steps_per_document", 3), ("timeout", 61.0), ("learning_rate", 0.2)],
)
async def test_an_option_above_its_ceiling_is_rejected(client, name, value):
    response = await client.post(TEXT, json={"model": NAME, "prompt": "x", "ttft": {name: value}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (f"ttft.{name}", "invalid_value")
    assert "at most" in error["message"]


@pytest.mark.parametrize("asked", [{"max_tokens": 50}, {"max_tokens": -1}])
async def test_an_answer_has_at_most_its_ceiling_of_tokens(client, asked):
    body = {"model": NAME, "ttft": {"mode": "base"}, **asked}
    text = await client.post(TEXT, json={**body, "prompt": "x"})
    messages = [{"role": "user", "content": "x"}]
    chatted = await client.post(CHAT, json={**body, "messages": messages})
    for response in (text, chatted):
        assert response.status_code == 200, response.text
        assert response.json()["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize(("name", "asked"), [("n", {"n": 3}), ("prompts", {"prompt": ["x"] * 3})])
async def test_more_answers_than_their_ceiling_are_rejected(client, name, asked):
    for stream in (False, True):
        body = {"model": NAME, "prompt": "x", "stream": stream, **asked}
        response = await client.post(TEXT, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == name
        assert "at most 2" in response.json()["error"]["message"]


async def test_an_option_at_its_ceiling_is_accepted(client):
    options = {"k": 3, "steps_per_document": 2, "timeout": 60, "learning_rate": 0.1}
    response = await client.post(TEXT, json={"model": NAME, "prompt": "x", "ttft": options})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "ceilings",
    [
        {"kk": 1},
        {"mode": 1},
        {"k": 0},
        {"k": 19},
        {"k": 20.5},
        {"fetch_k": 199},
        {"steps_per_document": 1},
        {"learning_rate": 0.01},
        {"noise_variance": 1},
        {"max_train_seconds": 0},
    ],
)
def test_ceilings_are_checked_before_a_model_is_loaded(ceilings):
    finetune = FineTuneConfig(steps_per_document=2, learning_rate=0.02)
    with pytest.raises(ArgumentError, match="ceiling"):
        ServingSettings("model", "store", noise_variance=2, finetune=finetune, ceilings=ceilings)


async def test_the_ceiling_of_k_holds_for_the_documents_of_a_session(client):
    documents = [f"The old clock is repaired {place}." for place in ("here", "there", "now", "so")]
    response = await client.post("/v1/ttft/sessions", json={"documents": documents})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "documents")
    response = await client.post("/v1/ttft/sessions", json={"documents": documents[:3]})
    assert response.status_code == 201, response.text


# The beginning of an answer


async def test_a_last_message_of_the_assistant_is_continued(client, service):
    question = {"role": "user", "content": "Who repairs the clock?"}
    begun = {"role": "assistant", "content": "The old"}
    view = service.view_of(service.settings.tenants.members[0])
    messages = [question, begun]
    expected = await view.chat.ainvoke(messages, documents=[], continue_final_message=True)
    response = await client.post(CHAT, json=chat(messages))
    assert response.json()["choices"][0]["message"]["content"] == expected.text
    assert response.json()["usage"]["prompt_tokens"] == expected.usage_metadata["input_tokens"]
    for more in (
        {"continue_final_message": False},
        {"add_generation_prompt": True},
        {"response_format": {"type": "json_object"}},
    ):
        response = await client.post(CHAT, json=chat(messages, max_tokens=16, **more))
        assert response.status_code == 200, response.text
    response = await client.post(CHAT, json=chat([question], continue_final_message=True))
    assert response.status_code == 400
    assert "continue_final_message" in response.json()["error"]["message"]


# Embeddings


async def test_embeddings_are_those_of_the_collection(client, service):
    view = service.view_of(service.settings.tenants.members[0])
    texts = ["The river flows.", "An old clock"]
    expected = view.retriever.vectorstore.embeddings.embed_documents(texts)
    tokenizer = service.engine.language_model.tokenizer
    ids = [tokenizer.encode(text) for text in texts]
    for given in (texts, ids):
        response = await client.post("/v1/embeddings", json={"model": NAME, "input": given})
        assert response.status_code == 200, response.text
        data = response.json()["data"]
        assert [one["index"] for one in data] == [0, 1]
        found = [one["embedding"] for one in data]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert response.json()["usage"]["prompt_tokens"] == sum(map(len, ids))
    response = await client.post(
        "/v1/embeddings",
        json={"model": NAME, "input": texts[0], "encoding_format": "base64"},
    )
    (one,) = response.json()["data"]
    decoded = np.frombuffer(base64.b64decode(one["embedding"]), dtype="<f4")
    np.testing.assert_allclose(decoded, expected[0], atol=1e-6)


class Passes:
    """Count the passes of a model, and hold each until `go_on` is set."""

    def __init__(self):
        self.count = 0
        self.started, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *_):
        self.count += 1
        self.started.set()
        assert self.go_on.wait(SECONDS)


@pytest.fixture
def passes(service):
    passes = Passes()
    handle = service.engine.language_model.model.register_forward_pre_hook(passes)
    base = service.engine.language_model.model.base_model.register_forward_pre_hook(passes)
    yield passes
    passes.go_on.set()
    handle.remove()
    base.remove()


LONG = EmbeddingRequest(model=NAME, input=[f"{number} long " * 2000 for number in range(4)])


async def test_embeddings_take_no_longer_than_the_ceiling(service, client, monkeypatch):
    settings = replace(service.settings, ceilings={"timeout": 1e-9})
    monkeypatch.setattr(service, "settings", settings)
    body = {"model": NAME, "input": LONG.input}
    response = await client.post("/v1/embeddings", json=body)
    assert response.status_code == 504
    assert "within 1e-09 s" in response.json()["error"]["message"]


@pytest.mark.parametrize("by_deadline", [True, False])
async def test_texts_without_a_reader_are_embedded_no_further(service, passes, by_deadline):
    view = service.view_of(service.settings.tenants.members[0])
    timeout = 0.01 if by_deadline else SECONDS
    request = asyncio.create_task(embed(LONG, view, timeout))
    if by_deadline:
        with pytest.raises(RequestTimeout, match=r"within 0.01 s"):
            await request
    else:
        assert await asyncio.to_thread(passes.started.wait, SECONDS)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    passes.go_on.set()
    one = EmbeddingRequest(model=NAME, input="short")
    await embed(one, view, SECONDS)
    assert passes.count <= 2
    passes.count = 0
    await embed(LONG, view, SECONDS)
    assert passes.count == 4


async def test_other_dimensions_are_rejected_before_the_model_reads(client, passes):
    body = {"model": NAME, "input": "x", "dimensions": 7}
    assert (await client.post("/v1/embeddings", json=body)).status_code == 400
    assert passes.count == 0


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"dimensions": 7}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ["x", 1]}, "input"),
        ({"input": [1 << 20]}, None),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "gpt-5"}, "model"),
    ],
)
async def test_bad_requests_for_embeddings_are_rejected(client, service, more, param):
    response = await client.post("/v1/embeddings", json={"model": NAME, "input": "x", **more})
    assert response.status_code in {400, 404}, response.text
    assert response.json()["error"]["param"] == param
    assert service.engine.status().admitted == 0
