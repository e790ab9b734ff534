"""Send forged requests; no document of another tenant may be seen or trained on.

Tenants a and b share a collection, divided by a filter; c has another collection, and d sees a part
of it. `owners` decides who may see a document, by its id.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from endpoint import HOST, NAME, Endpoint, fill_collection, make_settings, run_endpoint

from langchain_sift.serving import Tenant, Tenants
from langchain_sift.serving.tenants import digest_of
from langchain_sift.ttft import Engine
from langchain_sift.ttft.training.trainer import Trainer

ATTEMPTS = 2000
TOKENS = {name: f"the-token-of-tenant-{name}" for name in "abcd"}
TENANTS = Tenants(
    {
        digest_of(TOKENS["a"]): Tenant("a", {"tenant": "a"}),
        digest_of(TOKENS["b"]): Tenant("b", {"tenant": {"$in": ["b"]}}),
        digest_of(TOKENS["c"]): Tenant("c", collection="others"),
        digest_of(TOKENS["d"]): Tenant("d", {"tenant": "a"}, "others"),
    }
)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def owners(id_: str) -> set[str]:
    """Return the tenants that may see a document."""
    collection, number = id_.split("-")
    even = int(number) % 2 == 0
    if collection == "texts":
        return {"a"} if even else {"b"}
    return {"c", "d"} if even else {"c"}


@pytest.fixture(scope="module")
def endpoint(tiny_model_path, embeddings, texts, tmp_path_factory) -> Iterator[Endpoint]:
    store = tmp_path_factory.mktemp("shared-store")
    mean = embeddings.mean
    fill_collection(texts, str(tiny_model_path), mean, folder=store)
    fill_collection(texts, str(tiny_model_path), mean, folder=store, collection="others")
    settings = make_settings(
        tiny_model_path,
        store,
        collection="texts",
        tenants=TENANTS,
        max_tokens=1,
        adapter_cache=tmp_path_factory.mktemp("adapters"),
    )
    with run_endpoint(settings) as endpoint:
        yield endpoint


def forged_filter(rng: random.Random, depth: int = 3) -> object:
    """Return a filter, valid or not, that usually asks for documents of another tenant."""
    other = rng.choice(["a", "b", "c", "", "$ne"])
    simple = [
        {"tenant": other},
        {"tenant": {"$ne": other}},
        {"tenant": {"$nin": [other]}},
        {"tenant": {"$in": ["a", "b"]}},
        {"number": {"$gte": rng.randrange(-5, 70)}},
        {"number": {"$ne": -1}},
        {"missing": {"$ne": "x"}},
        {"#document": {"$contains": "e"}},
        {"even": rng.choice([True, False])},
        {"tenant": other, "number": rng.randrange(60)},
        {},
        None,
        [],
        "tenant",
        {"tenant": {}},
        {"tenant": {"$like": "%"}},
        {"$or": []},
        {"$not": {"tenant": "a"}},
        {"tenant": {"$eq": "b", "$ne": "a"}},
        {"tenant": None},
        {"tenant\u0000": "b"},
    ]
    if not depth or rng.random() < 0.4:
        return rng.choice(simple)
    parts = [forged_filter(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    return {rng.choice(["$and", "$or"]): parts}


def forged_options(rng: random.Random) -> dict[str, object]:
    options: dict[str, object] = {"k": rng.randint(1, 6), "max_documents": 1}
    options["mode"] = rng.choice(["rag", "ttft", "ttft", "both"])
    if rng.random() < 0.8:
        options["filter"] = forged_filter(rng)
    if rng.random() < 0.1:
        name = rng.choice(["collection", "collection_name", "tenant", "where", "search_kwargs"])
        options[name] = rng.choice(["others", "texts", "b", {"filter": None}])
    if rng.random() < 0.1:
        options["require_filter"] = False
    return options


def forged_request(rng: random.Random, texts: list[str]) -> dict[str, object]:
    question = rng.choice(texts)  # it may be the text of another tenant's document
    body: dict[str, object] = {"model": NAME, "ttft": forged_options(rng)}
    if rng.random() < 0.5:
        body["prompt"] = question[:80]
    else:
        body["messages"] = [{"role": "user", "content": question[:80]}]
    body["stream"] = rng.random() < 0.2
    for name, value in (
        ("user", "b"),
        ("metadata", {"tenant": "b"}),
        ("tenant", "b"),
        ("collection", "others"),
        ("filter", None),
        ("retriever", "b"),
        ("documents", ["x"]),
    ):
        body |= {name: value} if rng.random() < 0.03 else {}
    return body


def forged_headers(rng: random.Random, token: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"}
    for name, value in (
        ("X-Tenant", "b"),
        ("X-Tenant-Id", "others"),
        ("X-Chroma-Token", TOKENS["b"]),
        ("X-Api-Key", TOKENS["b"]),
        ("OpenAI-Organization", "b"),
        ("OpenAI-Project", "others"),
        ("X-Forwarded-User", "b"),
        ("X-Forwarded-For", HOST),
        ("X-Original-URL", "/metrics"),
        ("Cookie", "tenant=b; collection=others"),
    ):
        headers |= {name: value} if rng.random() < 0.2 else {}
    return headers


def record_of(response: httpx.Response) -> dict[str, list[str]]:
    if response.headers["content-type"].startswith("text/event-stream"):
        *_, last, done = [line for line in response.text.splitlines() if line]
        assert done == "data: [DONE]"
        return json.loads(last.removeprefix("data: "))["ttft"]
    return response.json()["ttft"]


def test_in_2000_attempts_no_document_of_another_tenant_is_used(endpoint, texts, monkeypatch):
    trained: list[int] = []
    gradients = Trainer._gradients

    def step(trainer, first, rows):
        trained.append(len(rows))
        return gradients(trainer, first, rows)

    requested: list[str] = []
    with_texts = Engine.with_texts

    def remember(engine, request, documents, **options):
        requested.extend(documents)
        return with_texts(engine, request, documents, **options)

    monkeypatch.setattr(Trainer, "_gradients", step)
    monkeypatch.setattr(Engine, "with_texts", remember)
    numbers = {text: number for number, text in enumerate(texts)}
    rng = random.Random(20)
    statuses: Counter[int] = Counter()
    seen: Counter[str] = Counter()
    count = recorded_steps = 0
    with httpx.Client(base_url=endpoint.url, timeout=60) as client:
        for _ in range(ATTEMPTS):
            name = rng.choice("abcd")
            body = forged_request(rng, texts)
            route = TEXT if "prompt" in body else CHAT
            query = {"tenant": "b", "collection": "others"} if rng.random() < 0.2 else {}
            response = client.post(
                route, json=body, headers=forged_headers(rng, TOKENS[name]), params=query
            )
            statuses[response.status_code] += 1
            allowed = {"a": {0}, "b": {1}, "c": {0, 1}, "d": {0}}[name]
            assert {numbers[text] % 2 for text in requested} <= allowed
            count += len(requested)
            requested.clear()
            if response.status_code != 200:
                assert response.json()["error"]["message"]
                assert not any(token in response.text for token in TOKENS.values())
                continue
            record = record_of(response)
            recorded_steps += record["steps"]
            assert record["steps"] == len(record["documents"]) or record["cached"]
            for id_ in [*record["documents"], *record["context"], *record["skipped"]]:
                assert name in owners(id_), (name, body)
                seen[name] += 1
    assert sum(statuses.values()) == ATTEMPTS
    assert {*statuses} == {200, 400}, statuses
    assert statuses[200] > ATTEMPTS / 4
    assert statuses[400] > ATTEMPTS / 4
    assert min(seen[name] for name in "abcd") > 50
    assert count > 100  # the engine's documents were checked
    assert sum(trained) > 100  # the records contain all steps
    assert sum(trained) <= recorded_steps


def test_a_tenant_finds_all_of_its_documents(endpoint, texts):
    with httpx.Client(base_url=endpoint.url, timeout=60) as client:
        for name, token in TOKENS.items():
            response = client.post(
                TEXT,
                json={
                    "model": NAME,
                    "prompt": "x",
                    "ttft": {"k": 200, "fetch_k": 200, "mode": "both", "max_documents": 1},
                },
                headers={"Authorization": f"Bearer {token}"},
            )
            # Not all documents fit into the prompt: ask the retriever for them.
            assert response.status_code == 200
            assert response.json()["ttft"]["context_left_out"]
            found = endpoint.service.view_of(
                next(tenant for tenant in TENANTS.members if tenant.name == name)
            ).retriever.invoke("x", k=200, fetch_k=200)
            expected = {
                f"{collection}-{number}"
                for collection in ("texts", "others")
                for number in range(len(texts))
                if name in owners(f"{collection}-{number}")
            }
            assert {document.id for document in found} == expected


def test_adapters_are_stored_for_each_tenant(endpoint, texts):
    """Tenants c and d have a document with the same text, and an adapter each."""
    body = {"model": NAME, "prompt": texts[0][:40], "ttft": {"filter": {"number": 0}, "k": 1}}
    cached = []
    with httpx.Client(base_url=endpoint.url, timeout=60) as client:
        for name in ("c", "c", "d", "d", "c"):
            response = client.post(
                TEXT, json=body, headers={"Authorization": f"Bearer {TOKENS[name]}"}
            )
            record = response.json()["ttft"]
            assert record["documents"] == ["others-0"]
            cached.append(record["cached"])
    assert cached == [False, True, False, True, True]
