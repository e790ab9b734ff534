"""Check tokens and capacity before a request is read, and cancel it after a disconnect."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import threading
import time
from dataclasses import replace

import pytest
from endpoint import FINETUNE, NAME, SECONDS, A, B
from prometheus_client.parser import text_string_to_metric_families

from langchain_sift import Limits
from langchain_sift.errors import EngineOverloaded, StoreTimeout, StoreUnavailable
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.serving import Tenant, Tenants, create_app, middleware, sent_response
from langchain_sift.serving.tenants import digest_of
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.training.slots import Slots
from langchain_sift.ttft.training.trainer import Trainer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
METRICS = "a-token-for-the-metrics"
TENANTS = Tenants(
    {
        digest_of(A): Tenant("alpha-corp", {"tenant": "a"}),
        digest_of(B): Tenant("beta-corp", {"tenant": "b"}, max_requests=1),
    },
    digest_of(METRICS),
)


def text(**more):
    return {"model": NAME, "prompt": "The old king", **more}


@pytest.fixture(scope="module")
def service(new_service):
    return new_service(tenants=TENANTS, limits=Limits(max_batch_size=2, max_requests=3))


class Pace:
    """Block the engine before each gradient step until `go_on` is set, and count the steps."""

    def __init__(self, monkeypatch):
        self.steps = 0
        self.started, self.go_on = threading.Event(), threading.Event()
        gradients = Trainer._gradients

        def step(trainer, first, rows):
            self.steps += 1
            self.started.set()
            assert self.go_on.wait(SECONDS)
            return gradients(trainer, first, rows)

        monkeypatch.setattr(Trainer, "_gradients", step)


@pytest.fixture
def pace(monkeypatch):
    pace = Pace(monkeypatch)
    yield pace
    pace.go_on.set()


async def wait_until(condition):
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


# Tokens


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_further_answers_wait_within_a_tenant_s_limit(service, connect, monkeypatch, stream):
    at_once, admit = [], service.engine.admission.admit

    def watch(tokens, **part):
        reservation = admit(tokens, **part)
        at_once.append(service.engine.status().admitted)
        return reservation

    monkeypatch.setattr(service.engine.admission, "admit", watch)
    most = {}
    for token in (A, B):
        client = await connect(service, token)
        body = text(n=4, max_tokens=1, stream=stream, ttft={"mode": "base"})
        response = await client.post(TEXT, json=body)
        assert response.status_code == 200, response.text
        await wait_until(lambda: not service.engine.status().admitted)
        most[token], at_once[:] = max(at_once), []
    assert most[B] == 1 < most[A]


@pytest.mark.slow
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer x", f"Basic {A}", A, f"Bearer {A}x"]
)
async def test_a_request_without_a_known_token_is_rejected(service, connect, authorization):
    client = await connect(service)
    headers = {} if authorization is None else {"Authorization": authorization}
    requests = [
        client.post(TEXT, json=text(), headers=headers),
        client.post(CHAT, content=b"{", headers=headers),
        client.get("/v1/models", headers=headers),
        client.get("/v1/nothing", headers=headers),
        client.get("/metrics", headers=headers),
    ]
    for response in [await request for request in requests]:
        assert response.status_code == 401
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert A not in response.text
    assert (await client.get("/health", headers=headers)).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rag", "ttft", "both"])
async def test_each_token_sees_its_own_documents(service, connect, mode, texts):
    for token, parity in ((A, 0), (B, 1)):
        client = await connect(service, token)
        response = await client.post(TEXT, json=text(max_tokens=1, ttft={"mode": mode, "k": 2}))
        assert response.status_code == 200, response.text
        record = response.json()["ttft"]
        seen = {int(id_.removeprefix("texts-")) for id_ in record["documents"] + record["context"]}
        assert seen
        assert {number % 2 for number in seen} == {parity}
        response = await client.post(
            TEXT, json=text(ttft={"mode": mode, "filter": {"tenant": "ab"[1 - parity]}})
        )
        record = response.json()["ttft"]
        assert record["documents"] == record["context"] == []
        assert record["steps"] == 0
    del texts


async def test_the_token_of_the_metrics_is_no_tenant_s(service, connect):
    assert (await (await connect(service, A)).get("/metrics")).status_code == 401
    reader = await connect(service, METRICS)
    response = await reader.get("/metrics")
    assert response.status_code == 200
    assert "alpha" not in response.text
    assert "beta" not in response.text
    assert (await reader.post(TEXT, json=text())).status_code == 401


async def test_unknown_host_names_are_rejected(service, connect):
    client = await connect(service, A, hosts=("localhost", "127.0.0.1", "[::1]"))
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "[::1]"):
        response = await client.get("/v1/models", headers={"Host": host})
        assert response.status_code == 200, host
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "[::2]"):
        for path in ("/v1/models", "/health", "/metrics", "/openapi.json"):
            response = await client.get(path, headers={"Host": host})
            assert response.status_code == 403, host
            assert response.json()["error"]["code"] == "host_not_allowed"


# Capacity


async def test_a_request_beyond_capacity_is_rejected_before_it_is_read(service, connect, pace):
    client = await connect(service, A)
    admitted = [asyncio.create_task(client.post(TEXT, json=text())) for _ in range(3)]
    await wait_until(lambda: service.engine.status().admitted == 3 and pace.started.is_set())
    read = []

    async def body():
        read.append(1)
        yield b"{}"

    for content in (body(), b"no JSON at all"):
        response = await client.post(TEXT, content=content)
        assert response.status_code == 503
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "overloaded")
        assert 1 <= int(response.headers["retry-after"]) <= 60
    assert service.engine.status().admitted == 3
    assert not read or not pace.go_on.is_set()
    pace.go_on.set()
    assert {(await task).status_code for task in admitted} == {200}
    assert service.engine.status().admitted == 0
    assert (await client.post(TEXT, json=text())).status_code == 200


async def test_a_tenant_s_limit_leaves_room_for_others(service, connect, pace):
    alpha, beta = await connect(service, A), await connect(service, B)
    first = asyncio.create_task(beta.post(TEXT, json=text()))
    await wait_until(pace.started.is_set)
    response = await beta.post(TEXT, json=text())
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    other = asyncio.create_task(alpha.post(TEXT, json=text()))
    await wait_until(lambda: service.engine.status().admitted == 2)
    pace.go_on.set()
    assert (await first).status_code == (await other).status_code == 200
    assert (await beta.post(TEXT, json=text())).status_code == 200


async def test_training_tokens_are_limited(new_service, connect, pace):
    limits = Limits(max_batch_size=2, max_requests=9, max_tokens=3 * FINETUNE.max_length)
    service = new_service(limits=limits)
    client = await connect(service)
    first = asyncio.create_task(client.post(TEXT, json=text()))
    await wait_until(pace.started.is_set)
    response = await client.post(TEXT, json=text(ttft={"k": 3}))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert service.engine.status().admitted == 1
    pace.go_on.set()
    assert (await first).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        text(),
        text(stream=True),
        text(ttft={"mode": "base"}),
        text(ttft={"mode": "rag"}),
        text(ttft={"mode": "both", "k": 1}),
        text(ttft={"timeout": 1e-9}),
        text(ttft={"q": 1}),
        text(model="other"),
        text(prompt="x " * 400),
        text(ttft={"mode": "rag"}, prompt="x " * 400),
        b"{",
    ],
    ids=str,
)
async def test_every_request_releases_its_reservation(service, connect, body):
    client = await connect(service, B)  # its limit is one request
    for _ in range(2):
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        response = await client.post(TEXT, headers={"Content-Type": "application/json"}, **sent)
        assert response.status_code in {200, 400, 404, 408}
        assert service.engine.status().admitted == 0


# Disconnects


class Client:
    """Call an application as an ASGI server does, for a client that can disconnect."""

    def __init__(self, app, body, token=A, path=TEXT):
        self.sent = []
        self.disconnect = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._body = [json.dumps(body).encode()]
        headers = [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {token}".encode()),
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.disconnect.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await self.reads.wait()
        self.sent.append(message)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_training_stops_within_a_step_after_a_disconnect(service, pace, stream, path):
    body = {"model": NAME, "stream": stream, "ttft": {"k": 50, "steps_per_document": 4}}
    if path == TEXT:
        body["prompt"] = "The old king"
    else:
        body["messages"] = [{"role": "user", "content": "The old king"}]
    client = Client(create_app(service), body, path=path)
    await wait_until(pace.started.is_set)
    steps = pace.steps
    client.disconnect.set()
    await asyncio.wait_for(client.task, SECONDS)  # the engine is still in its step
    pace.go_on.set()
    await wait_until(lambda: service.engine.status().at_work == 0)
    assert pace.steps <= steps + 1
    assert service.engine.status().admitted == 0
    assert client.sent == []


async def test_generation_stops_after_a_disconnect(service, monkeypatch):
    tokens, add = [], AnswerDecoder.add

    def slowly(decoder, token_id):
        tokens.append(token_id)
        time.sleep(0.02)
        return add(decoder, token_id)

    monkeypatch.setattr(AnswerDecoder, "add", slowly)
    client = Client(create_app(service), text(stream=True, max_tokens=200, ttft={"mode": "base"}))
    await wait_until(lambda: len(client.sent) > 3)
    client.disconnect.set()
    await asyncio.wait_for(client.task, SECONDS)
    count = len(tokens)
    await wait_until(lambda: service.engine.status().at_work == 0)
    assert len(tokens) <= count + 2 < 200
    assert service.engine.status().admitted == 0


async def test_a_disconnect_in_the_queue_makes_room(service, connect, pace):
    app = create_app(service)
    clients = [Client(app, text()) for _ in range(2)]
    await wait_until(pace.started.is_set)
    clients.append(Client(app, text()))
    await wait_until(lambda: service.engine.status().waiting == 3 - service.engine.status().at_work)
    clients[2].disconnect.set()
    await asyncio.wait_for(clients[2].task, SECONDS)
    await wait_until(lambda: service.engine.status().admitted == 2)
    late = asyncio.create_task((await connect(service, A)).post(TEXT, json=text()))
    await wait_until(lambda: service.engine.status().admitted == 3)
    pace.go_on.set()
    assert (await late).status_code == 200
    await asyncio.gather(*(client.task for client in clients))
    assert [client.sent[0]["status"] for client in clients[:2]] == [200, 200]
    assert clients[2].sent == []


async def test_a_body_that_does_not_arrive_times_out(service, monkeypatch):
    monkeypatch.setattr(middleware, "_BODY_SECONDS", 0.05)
    client = Client(create_app(service), text())
    client._body.clear()
    await asyncio.wait_for(client.task, SECONDS)
    assert client.sent[0]["status"] == 408
    assert json.loads(client.sent[1]["body"])["error"]["code"] == "request_timeout"
    assert service.engine.status().admitted == 0


async def test_a_shutdown_is_reported_and_releases_everything(service, pace):
    client = Client(create_app(service), text(ttft={"k": 50}))
    await wait_until(pace.started.is_set)
    client.task.cancel()  # as uvicorn does at the end of a graceful shutdown
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert client.sent[0]["status"] == 503
    assert dict(client.sent[0]["headers"])[b"retry-after"] == b"1"
    assert json.loads(client.sent[1]["body"])["error"]["code"] == "shutting_down"
    pace.go_on.set()
    await wait_until(lambda: service.engine.status().admitted == 0)
    assert pace.steps <= 2


@pytest.mark.parametrize(
    ("path", "question", "last"),
    [
        (TEXT, {"prompt": "The old king"}, "shutting_down"),
        (CHAT, {"messages": [{"role": "user", "content": "The old king"}]}, "shutting_down"),
        ("/v1/responses", {"input": "The old king"}, "response.failed"),
    ],
)
async def test_a_stream_that_a_shutdown_cuts_ends_with_an_error(
    new_service, pace, path, question, last
):
    service = new_service(status_seconds=0.01, tenants=TENANTS)
    body = {"model": NAME, "stream": True, **question}
    client = Client(create_app(service), body, path=path)
    await wait_until(lambda: pace.started.is_set() and len(client.sent) > 1)
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert [message.get("more_body", False) for message in client.sent[1:]].index(False) == (
        len(client.sent) - 2
    )
    *_, event, done = client.sent[-1]["body"].decode().strip().split("\n\n")
    assert last in event
    assert "the server is shutting down" in event
    assert done == "data: [DONE]"
    pace.go_on.set()
    await wait_until(lambda: service.engine.status().admitted == 0)


async def test_a_client_that_does_not_read_keeps_no_server_from_ending(
    new_service, pace, monkeypatch
):
    monkeypatch.setattr(sent_response, "_END_SECONDS", 0.05)
    service = new_service(status_seconds=0.01, tenants=TENANTS)
    body = {"model": NAME, "stream": True, "prompt": "The old king"}
    client = Client(create_app(service), body)
    await wait_until(lambda: pace.started.is_set() and len(client.sent) > 1)
    client.reads.clear()
    sent = len(client.sent)
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(client.task, SECONDS)
    assert len(client.sent) <= sent + 1  # what was on its way
    pace.go_on.set()
    await wait_until(lambda: service.engine.status().admitted == 0)


# Ids


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_has_one_id_in_its_response_and_in_the_log(
    new_service, connect, monkeypatch, caplog, stream
):
    async def fail(*_, **__):
        await asyncio.sleep(0.05)
        raise StoreUnavailable("it is down")

    monkeypatch.setattr(SIFTRetriever, "_achoose", fail)
    client = await connect(new_service(status_seconds=0.01))
    for given in ("mine-1", "", "a b", "x" * 129, "é"):
        caplog.clear()
        headers = [(b"X-Request-ID", given.encode())]
        response = await client.post(TEXT, json=text(stream=stream), headers=headers)
        (sent,) = response.headers.get_list("x-request-id")
        assert (sent == given) == (given == "mine-1")
        assert re.fullmatch("[!-~]{1,128}", sent)
        assert f"StoreUnavailable: it is down (request {sent})" in caplog.text


async def test_a_server_that_adds_the_id_itself_gets_none(service, connect):
    client = await connect(service, adds_ids=False)
    for path in ("/health", "/v1/models", "/v1/nothing"):
        response = await client.get(path, headers={"X-Request-ID": "mine"})
        assert "x-request-id" not in response.headers


# The store


@pytest.mark.slow
@pytest.mark.parametrize("error", [StoreUnavailable("facts of b"), StoreTimeout("facts of b")])
@pytest.mark.parametrize("mode", ["rag", "ttft", "both"])
async def test_an_unavailable_store_is_503(  # noqa: PLR0917 - fixtures
    service, connect, monkeypatch, caplog, error, mode
):
    client = await connect(service, A)

    async def down(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(SIFTRetriever, "_achoose", down)
        for stream in (False, True):
            response = await client.post(TEXT, json=text(stream=stream, ttft={"mode": mode}))
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "store_unavailable"
            assert "facts" not in response.text
            assert f"{type(error).__name__}: facts of b" in caplog.text
            assert int(response.headers["retry-after"]) >= 1
        response = await client.post(TEXT, json=text(ttft={"mode": "base"}))
        assert response.status_code == 200
    response = await client.post(TEXT, json=text(ttft={"mode": mode, "k": 1}))
    assert response.status_code == 200


# Health and metrics


async def test_health_notices_an_engine_that_hangs(new_service, connect, pace):
    service = new_service(stall_seconds=0.05)
    client = await connect(service)
    request = asyncio.create_task(client.post(TEXT, json=text()))
    await wait_until(pace.started.is_set)
    await wait_until(lambda: service.engine.status().idle_seconds > 0.05)
    response = await client.get("/health")
    assert (response.status_code, response.json()["engine"]) == (503, "unavailable")
    pace.go_on.set()
    assert (await request).status_code == 200
    await wait_until(lambda: service.engine.status().at_work == 0)
    assert service.engine.status().idle_seconds == 0


async def test_health_reports_the_state_of_the_engine(new_service, connect, pace, monkeypatch):
    monkeypatch.setattr("langchain_sift.ttft.batching._IDLE_SECONDS", 60.0)  # slots stay
    service = new_service(limits=Limits(max_requests=14))
    client = await connect(service)
    ok = {"status": "ok", "engine": "ok", "store": "ok"}
    assert (await client.get("/health")).json() == ok
    request = asyncio.create_task(client.post(TEXT, json=text()))
    await wait_until(pace.started.is_set)
    assert (await client.get("/health")).json() == {**ok, "engine": "busy"}
    pace.go_on.set()
    await request
    await wait_until(lambda: service.engine.status().at_work == 0)
    with monkeypatch.context() as patched:
        patched.setattr(Slots, "is_at_rest", lambda *_: False)
        response = await client.get("/health")
    assert response.status_code == 503
    assert response.json()["engine"] == "unavailable"
    assert service.engine.status().quarantined == 1
    assert (await client.get("/health")).json() == ok
    service.close()
    response = await client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    response = await client.post(TEXT, json=text())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")


async def test_health_is_unavailable_where_no_request_fits_into_the_memory(new_service, connect):
    service = new_service(limits=Limits(max_memory_gb=0.01))
    client = await connect(service)
    response = await client.post(TEXT, json=text(ttft={"mode": "base"}))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "engine": "unavailable", "store": "ok"}


@pytest.mark.slow
async def test_the_metrics_count_requests_and_training(new_service, connect):
    service = new_service(limits=Limits(max_requests=15))
    client = await connect(service)
    records = []
    for body in (text(), text(ttft={"mode": "both", "k": 1}), text(ttft={"mode": "base"})):
        records.append((await client.post(TEXT, json=body)).json())  # noqa: PERF401
    async with client.stream("POST", TEXT, json=text(stream=True)) as response:
        *_, last, _ = [line async for line in response.aiter_lines() if line]
    records.append(json.loads(last.removeprefix("data: ")))
    await client.post(TEXT, json=text(ttft={"q": 1}))
    await client.get("/something/else")
    reservations = [service.engine.admission.admit(0) for _ in range(15)]
    assert (await client.post(TEXT, json=text())).status_code == 503
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name.removeprefix("langchain_sift_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    steps = sum(record["ttft"]["steps"] for record in records)
    assert steps > 0
    assert samples["training_steps_total",] == steps
    assert samples["tokens_total", "trained"] == sum(r["ttft"]["tokens"] for r in records)
    assert samples["requests_total", TEXT, "200"] == len(records)
    assert samples["requests_total", TEXT, "400"] == 1
    assert samples["requests_total", TEXT, "503"] == 1
    assert samples["requests_total", "other", "404"] == 1
    assert samples["refusals_total", "overloaded"] == 1
    assert samples["refusals_total", "unauthorized"] == 0
    assert samples["request_seconds_count", TEXT] == len(records) + 2
    assert samples["training_seconds_count",] == len(records)
    assert samples["admitted",] == len(reservations)
    assert samples["quarantined_total",] == 0
    assert samples["measured_memory_bytes",] > 10**8
    assert not re.search("The old king|texts-", response.text)


def test_admission_never_waits(new_service):
    service = new_service(limits=Limits(max_requests=2))
    (tenant,) = service.settings.tenants.members
    with service.admit(tenant), service.admit(tenant):
        with pytest.raises(EngineOverloaded), service.admit(tenant):
            pass
        assert service.engine.status().admitted == 2
    assert service.engine.status().admitted == 0


async def test_an_answer_that_never_began_leaves_no_room_reserved(new_service):
    service = new_service()
    (tenant,) = service.settings.tenants.members
    with service.admit(tenant) as admitted:
        kept = [await admitted.reserve(time.perf_counter(), 10) for _ in range(2)]
        assert service.engine.status().admitted == 2
    assert len(kept) == 2
    assert service.engine.status().admitted == service.engine.status().admitted_tokens == 0


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_request_keeps_no_place_after_its_last_answer(answers, new_service):
    """A client may read a stream slowly."""
    service = new_service()
    (tenant,) = service.settings.tenants.members
    with service.admit(tenant) as admitted:
        admitted.expect(answers)
        for left in reversed(range(answers)):
            part = await admitted.reserve(time.perf_counter())
            assert service.engine.status().admitted == 1
            part.release()
            assert service.engine.status().admitted == min(left, 1)


def test_settings_can_be_pickled(service):
    assert pickle.loads(pickle.dumps(service.settings)) == service.settings  # noqa: S301
    assert replace(service.settings, name=None).model_id == service.settings.model
