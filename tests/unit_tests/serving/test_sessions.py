"""Keep adapters for later requests, bound to their tenant, within limits of number and time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace

import pytest
import torch
from endpoint import NAME, SECONDS, A, B
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.serving import SessionLimits, Tenant, Tenants
from langchain_sift.serving.error_responses import RequestRejected
from langchain_sift.serving.on_ray import settings_of
from langchain_sift.serving.session_store import Sessions
from langchain_sift.serving.tenants import digest_of
from langchain_sift.ttft import TrainedAdapter
from langchain_sift.ttft.memory.use import used_bytes
from langchain_sift.ttft.training.tasks import TrainingRecord
from langchain_sift.ttft.training.trainer import Trainer

CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/ttft/sessions"
QUESTION = "Who repairs the broken clock near the border?"
TENANTS = Tenants(
    {
        digest_of(A): Tenant("alpha-corp", {"tenant": "a"}),
        digest_of(B): Tenant("beta-corp", {"tenant": "b"}),
    },
    None,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def adapter(size=250_000):
    record = TrainingRecord(losses=(1.0, 0.5), tokens=30)
    weights = torch.ones(size)  # zeros would take no memory until written
    return TrainedAdapter(weights, (), (), FineTuneConfig(), record, "base")


def status_of(call):
    with pytest.raises(RequestRejected) as refused:
        call()
    return refused.value.failure.status


# The store of sessions


def test_a_session_expires_when_idle_and_after_its_lifetime():
    clock = Clock()
    sessions = Sessions(SessionLimits(idle_seconds=10, total_seconds=25), clock)
    used, idle = (sessions.add("a", adapter(), ("1",)) for _ in range(2))
    assert sessions.seconds_left(used) == 10
    for now in (9, 18, 24):
        clock.now = now
        used = sessions.use("a", used.id, event="answered")
    assert sessions.seconds_left(used) == 1
    assert status_of(lambda: sessions.get("a", idle.id)) == 404
    clock.now = 25
    assert status_of(lambda: sessions.get("a", used.id)) == 404
    assert (sessions.count, sessions.nbytes) == (0, 0)
    assert sessions.events == {"learned": 2, "answered": 3, "expired": 2, "missing": 2}


def test_a_look_does_not_keep_a_session_alive():
    clock = Clock()
    sessions = Sessions(SessionLimits(idle_seconds=10), clock)
    session = sessions.add("a", adapter(), ())
    clock.now = 9
    assert sessions.get("a", session.id).used == 0
    clock.now = 10
    assert status_of(lambda: sessions.get("a", session.id)) == 404


def test_the_start_of_learning_keeps_a_session_alive():
    clock = Clock()
    sessions = Sessions(SessionLimits(idle_seconds=10), clock)
    session = sessions.add("a", adapter(), ())
    clock.now = 9
    session = sessions.use("a", session.id)
    clock.now = 18
    assert sessions.extend("a", session, adapter(), ()).id == session.id
    assert sessions.events == {"learned": 1, "extended": 1}


def test_another_tenant_s_unknown_and_ended_sessions_get_the_same_response():
    sessions = Sessions(SessionLimits())
    session, ended = (sessions.add("a", adapter(), ()) for _ in range(2))
    sessions.remove("a", ended.id)
    failures = []
    for tenant, session_id in (("b", session.id), ("a", "ttft-unknown"), ("a", ended.id)):
        for call in (sessions.get, sessions.remove):
            with pytest.raises(RequestRejected) as refused:
                call(tenant, session_id)
            failures.append(refused.value.failure)
        with pytest.raises(RequestRejected) as refused:
            sessions.extend(tenant, replace(session, id=session_id), adapter(), ())
        failures.append(refused.value.failure)
    assert len({failure.body() for failure in failures}) == 1
    assert failures[0].status == 404
    assert sessions.get("a", session.id) is not None


def test_learning_on_top_counts_all_and_refuses_a_changed_session():
    sessions = Sessions(SessionLimits())
    first = sessions.add("a", adapter(), ("1",))
    second = sessions.extend("a", first, adapter(), ("2",))
    assert (second.id, second.documents, second.steps) == (first.id, ("1", "2"), 4)
    assert status_of(lambda: sessions.extend("a", first, adapter(), ("3",))) == 409
    assert sessions.get("a", first.id).documents == ("1", "2")


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_no_tenant_pushes_out_the_sessions_of_one_with_fewer(calls, number, megabytes):
    """Replay calls: limits hold, and the oldest session of the tenants with most goes."""
    clock = Clock()
    sessions = Sessions(SessionLimits(max_sessions=number, max_memory_gb=megabytes / 1000), clock)
    kept = []  # (tenant, id), the least recently used first
    for tenant, uses in calls:
        clock.now += 1
        own = [entry for entry in kept if entry[0] == tenant]
        if uses and own:
            sessions.use(*own[0], event="answered")
            kept.remove(own[0])
            kept.append(own[0])
            continue
        kept.append((tenant, sessions.add(tenant, adapter(), ()).id))  # 1 MB
        if len(kept) > min(number, megabytes):
            counts = Counter(owner for owner, _ in kept)
            most = [entry for entry in kept[:-1] if counts[entry[0]] == max(counts.values())]
            kept.remove(most[0])
        assert sorted(kept) == sorted(
            (name, id_) for name, own in sessions._of_tenants.items() for id_ in own
        )
        assert sessions.nbytes == 1_000_000 * len(kept)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (SessionLimits(max_sessions=0), "keeps no sessions"),
        (SessionLimits(max_memory_gb=0), "keeps no sessions"),
        (SessionLimits(max_memory_gb=0.0005), "takes 0.001 GB, more than"),
    ],
)
def test_a_server_without_room_for_a_session_says_so(limits, message):
    with pytest.raises(RequestRejected, match=message):
        Sessions(limits).add("a", adapter(), ())


@pytest.mark.parametrize(
    "limits", [SessionLimits(max_sessions=3), SessionLimits(max_memory_gb=0.0031)]
)
def test_no_request_makes_sessions_that_push_out_one_another(limits):
    Sessions(limits).check_room(1_000_000, 3)
    with pytest.raises(RequestRejected, match="at most 3 sessions, and this request makes 4"):
        Sessions(limits).check_room(1_000_000, 4)


@pytest.mark.parametrize("streamed", [False, True])
async def test_more_new_sessions_than_fit_are_refused(client, service, monkeypatch, streamed):
    monkeypatch.setattr(service.sessions, "limits", SessionLimits(max_sessions=2))
    monkeypatch.setattr(service.sessions, "events", Counter())
    body = {"model": NAME, "stream": streamed, "max_tokens": 2, "ttft": {"session": "new"}}
    refused = await client.post(TEXT, json={**body, "prompt": ["a", "b", "c"]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "ttft.session"
    assert (await client.post(TEXT, json={**body, "prompt": ["a", "b"]})).status_code == 200
    service.sessions.clear()


async def test_sessions_leave_memory_for_requests(new_service, connect):
    """Sessions in memory count as memory in use, which a request must fit beside."""
    limit = used_bytes(torch.device("cpu")) / 1e9 + 0.3 + 0.4
    service = new_service(limits=Limits(max_memory_gb=limit))
    assert 0 < service.sessions.limits.max_memory_gb < 0.25
    for _ in range(40):  # 1 GB
        service.sessions.add("anyone", adapter(25_000_000 // 4), ())
    client = await connect(service)
    for _ in range(2):  # the second one finds the memory measured after the first
        body = {"model": NAME, "prompt": QUESTION, "max_tokens": 2, "ttft": {"mode": "both"}}
        assert (await client.post(TEXT, json=body)).status_code == 200
    service.sessions.clear()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_sessions": -1}, "max_sessions"),
        ({"max_memory_gb": -1}, "max_memory_gb"),
        ({"idle_seconds": 0}, "idle_seconds"),
        ({"total_seconds": float("inf")}, "total_seconds"),
    ],
)
def test_bad_limits_are_refused(limits, message):
    with pytest.raises(ArgumentError, match=message):
        SessionLimits(**limits)


def test_replicas_keep_no_sessions():
    args = {"model": "m", "store": "http://127.0.0.1:1"}
    assert settings_of(args, Tenants.anybody()).sessions.max_sessions == 0
    with pytest.raises(ArgumentError, match="replicas keep no sessions"):
        settings_of({**args, "sessions": {}}, Tenants.anybody())


# Over HTTP


@pytest.fixture(scope="module")
def service(new_service):
    return new_service(tenants=TENANTS, limits=Limits(max_batch_size=1, max_requests=2))


@pytest.fixture
async def client(service, connect):
    return await connect(service, A)


@pytest.fixture
def steps(monkeypatch):
    """Count the gradient steps."""
    taken = []
    gradients = Trainer._gradients

    def count(trainer, first, rows):
        taken.append(rows)
        return gradients(trainer, first, rows)

    monkeypatch.setattr(Trainer, "_gradients", count)
    return taken


def ask(session=None, **ttft):
    options = {**ttft, **({} if session is None else {"session": session})}
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": NAME, "messages": messages, "ttft": options}


def answer_of(response):
    assert response.status_code == 200, response.text
    content = response.json()
    choice = content["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"], content["ttft"]


@pytest.mark.slow
async def test_later_questions_neither_retrieve_nor_train(client, service, steps):
    anew, _ = answer_of(await client.post(CHAT, json=ask()))
    first, record = answer_of(await client.post(CHAT, json=ask("new")))
    assert first == anew
    assert (len(record["documents"]), record["cached"]) == (3, False)
    taken = len(steps)
    assert taken == 6
    again, later = answer_of(await client.post(CHAT, json=ask(record["session"])))
    assert again == anew
    assert len(steps) == taken
    assert (later["session"], later["cached"], later["mode"]) == (record["session"], True, "ttft")
    assert later["seconds"]["retrieval"] == later["seconds"]["training"] == 0
    text = {"model": NAME, "prompt": QUESTION, "ttft": {"session": record["session"]}}
    answer_of(await client.post(TEXT, json=text))
    chunks = (await client.post(CHAT, json={**ask(record["session"]), "stream": True})).text
    assert f'"session":"{record["session"]}"' in chunks
    _, both = answer_of(await client.post(CHAT, json=ask(record["session"], mode="both", k=2)))
    assert (len(both["context"]), both["documents"]) == (2, [])
    several = (await client.post(CHAT, json={**ask(record["session"]), "n": 2})).json()
    contents = {choice["message"]["content"] for choice in several["choices"]}
    assert (contents, several["ttft"]["session"]) == ({anew}, record["session"])
    assert len(steps) == taken
    assert service.sessions.events["answered"] == 5
    several = (await client.post(CHAT, json={**ask("new"), "n": 2})).json()
    assert len(several["choices"]) == 2
    assert service.sessions.events["learned"] == 2


@pytest.mark.slow
async def test_documents_are_learned_and_more_on_top(client, service, texts):
    """The answer is that of a model in this process that learns the same in the same order."""
    documents = [{"text": texts[0], "id": "first"}, texts[2]]
    made = await client.post(ROUTE, json={"documents": documents})
    assert made.status_code == 201, made.text
    session = made.json()
    assert (session["documents"], session["steps"]) == (["first", None], 2)
    assert session["memory_bytes"] == service.engine.adapter_bytes
    more = {"documents": [texts[4]], "ttft": {"learning_rate": 0.02}}
    learned = (await client.post(f"{ROUTE}/{session['id']}", json=more)).json()
    assert (learned["id"], learned["steps"]) == (session["id"], 3)
    text, _ = answer_of(await client.post(CHAT, json=ask(session["id"])))
    chat = service.view_of(Tenant("alpha-corp")).chat
    assert isinstance(chat, ChatTestTimeFineTuned)
    one, two, three = (texts[n] for n in (0, 2, 4))
    twice = (await chat.alearn([Document(one), Document(two)])).learn
    expected = await asyncio.to_thread(twice, [Document(three)], learning_rate=0.02)
    assert text == (await expected.ainvoke(QUESTION)).content
    seen = (await client.get(f"{ROUTE}/{session['id']}")).json()
    assert seen["documents"] == ["first", None, None]
    ended = await client.delete(f"{ROUTE}/{session['id']}")
    assert ended.json() == {
        "id": session["id"],
        "object": "ttft.session.deleted",
        "deleted": True,
    }
    assert (await client.post(CHAT, json=ask(session["id"]))).status_code == 404


@pytest.mark.slow
async def test_a_query_learns_the_tenant_s_own_documents(service, connect):
    client = await connect(service, B)
    made = await client.post(ROUTE, json={"query": QUESTION, "ttft": {"k": 2}})
    ids = made.json()["documents"]
    assert ids
    assert {int(id_.removeprefix("texts-")) % 2 for id_ in ids} == {1}
    other = await connect(service, A)
    session = made.json()["id"]
    responses = [
        await other.post(CHAT, json=ask(session)),
        await other.post(CHAT, json=ask("ttft-unknown")),
        await other.get(f"{ROUTE}/{session}"),
        await other.delete(f"{ROUTE}/{session}"),
        await other.post(f"{ROUTE}/{session}", json={"query": QUESTION}),
    ]
    assert {response.status_code for response in responses} == {404}
    for same, param in ((responses[:2], "ttft.session"), (responses[2:], None)):
        assert len({response.content for response in same}) == 1
        assert same[0].json()["error"]["param"] == param
    assert (await client.get(f"{ROUTE}/{session}")).status_code == 200


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"session": "new", "mode": "rag"}, "needs one"),
        ({"session": "ttft-x", "mode": "base"}, "needs one"),
        ({"session": "ttft-x", "learning_rate": 0.1}, "learning_rate has no effect"),
        ({"session": "ttft-x", "k": 2}, "k has no effect"),
        ({"session": ""}, "session"),
        ({"session": 3}, "session"),
    ],
)
async def test_options_without_effect_are_refused(client, options, word):
    response = await client.post(CHAT, json=ask(**options))
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": "a", "documents": ["b"]},
        {"documents": []},
        {"query": "a", "x": 1},
        {"query": " "},
        {"query": "\ud800"},
        {"documents": [{"text": "Rice grows.", "id": "\ud800"}]},  # no response could hold it
        {"documents": [{"text": "Rice grows.", "id": "x" * 513}]},
        {"documents": ["Rice grows."], "ttft": {"k": 1}},
        {"documents": ["Rice grows."], "ttft": {"filter": {"tenant": "a"}}},
        {"documents": ["Rice grows."], "ttft": {"min_gain": 0.5}},
    ],
)
async def test_bad_learning_is_refused(client, service, body):
    before = service.sessions.count
    response = await client.post(
        ROUTE, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert service.sessions.count == before


@pytest.mark.parametrize(
    ("path", "methods"),
    [(ROUTE, "POST"), (f"{ROUTE}/ttft-x", "DELETE, GET, POST"), ("/v1/models", "GET")],
)
async def test_another_method_gets_the_names_of_all_that_there_are(client, path, methods):
    response = await client.put(path)
    assert response.status_code == 405
    assert response.headers["Allow"] == methods
    assert response.json()["error"]["message"] == f"this route takes {methods} only"


async def test_without_documents_there_is_no_session(client, service):
    before = service.sessions.count
    response = await client.post(ROUTE, json={"documents": [""]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "nothing_to_learn")
    _, record = answer_of(await client.post(CHAT, json=ask("new", filter={"tenant": "nobody"})))
    assert record["session"] is None
    assert record["fallback"] is not None
    assert service.sessions.count == before


@pytest.mark.slow
async def test_a_limit_below_the_first_document_is_named(client):
    documents = ["Too long for the limit."]
    session = (await client.post(ROUTE, json={"documents": documents})).json()["id"]
    for route in (ROUTE, f"{ROUTE}/{session}"):
        for objective in ("text", "distill"):
            options = {"max_train_tokens": 1, "objective": objective}
            response = await client.post(route, json={"documents": documents, "ttft": options})
            assert response.status_code == 400, response.text
            error = response.json()["error"]
            assert error["code"] == "nothing_to_learn"
            assert "max_train_tokens" in error["message"]
    assert (await client.get(f"{ROUTE}/{session}")).json()["steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [1e-9, 0.002])
async def test_a_timeout_of_learning_names_the_given_one(client, timeout):
    body = {"documents": ["The river. " * 999] * 9, "ttft": {"timeout": timeout}}
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 408
    assert f"not learned within {timeout} s" in response.json()["error"]["message"]


@pytest.mark.slow
async def test_a_server_at_capacity_loses_no_session(client, service, monkeypatch):
    _, record = answer_of(await client.post(CHAT, json=ask("new")))
    started, go_on = threading.Event(), threading.Event()
    gradients = Trainer._gradients

    def wait(trainer, first, rows):
        started.set()
        assert go_on.wait(SECONDS)
        return gradients(trainer, first, rows)

    monkeypatch.setattr(Trainer, "_gradients", wait)
    busy = [asyncio.create_task(client.post(CHAT, json=ask())) for _ in range(2)]
    assert await asyncio.to_thread(started.wait, SECONDS)
    refused = [
        await client.post(CHAT, json=ask(record["session"])),
        await client.post(f"{ROUTE}/{record['session']}", json={"query": QUESTION}),
    ]
    assert [response.status_code for response in refused] == [503, 503]
    assert (await client.get(f"{ROUTE}/{record['session']}")).status_code == 200
    go_on.set()
    assert {(await request).status_code for request in busy} == {200}
    answer_of(await client.post(CHAT, json=ask(record["session"])))
    del service


@pytest.mark.slow
async def test_sessions_end_with_the_server_and_are_counted(new_service, connect):
    service = new_service(sessions=SessionLimits(max_sessions=1))
    client = await connect(service)
    _, first = answer_of(await client.post(CHAT, json=ask("new")))
    _, second = answer_of(await client.post(CHAT, json=ask("new")))
    assert (await client.post(CHAT, json=ask(first["session"]))).status_code == 404
    steps = f"training_steps_total {first['steps'] + second['steps']}.0"
    answer_of(await client.post(CHAT, json=ask(second["session"])))
    metrics = (await client.get("/metrics")).text
    for line in (
        "sessions 1.0",
        f"session_memory_bytes {service.engine.adapter_bytes}.0",
        'session_events_total{event="evicted"} 1.0',
        'session_events_total{event="answered"} 1.0',
        steps,
    ):
        assert f"langchain_sift_{line}\n" in metrics
    assert first["session"] not in metrics
    service.close()
    assert service.sessions.count == 0
    again = await connect(new_service())
    assert (await again.post(CHAT, json=ask(second["session"]))).status_code == 404
