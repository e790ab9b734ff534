"""Serve while the store fails, clients disconnect, requests exceed the capacity, or it stops."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from endpoint import (
    HOST,
    NAME,
    SECONDS,
    Endpoint,
    fill_collection,
    make_settings,
    run_endpoint,
    wait_until,
)
from integration_tests.conftest import close
from integration_tests.servers import Server
from typer.testing import CliRunner

from langchain_sift import ChatTestTimeFineTuned, Limits, SIFTRetriever
from langchain_sift.cli import app
from langchain_sift.errors import StoreInUse, StoreTimeout, StoreUnavailable
from langchain_sift.serving import open_service, retrievers, server
from langchain_sift.ttft.training.trainer import Trainer

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
FINETUNE = ("--k", "3", "--lora-rank", "4", "--learning-rate", "0.01", "--max-length", "64")


def body(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "The old king", "max_tokens": 4, **more}


@pytest.fixture(scope="module")
def filled_folder(tiny_model_path, embeddings, texts, tmp_path_factory) -> Path:
    """Return the folder of a filled store; tests copy it."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=folder)
    return folder


@pytest.fixture
def folder(filled_folder, tmp_path) -> Path:
    return Path(shutil.copytree(filled_folder, tmp_path / "store"))


@pytest.fixture(scope="module")
def endpoint(filled_folder, tiny_model_path, tmp_path_factory) -> Iterator[Endpoint]:
    """Return an endpoint on an embedded store."""
    folder = shutil.copytree(filled_folder, tmp_path_factory.mktemp("served") / "store")
    with run_endpoint(make_settings(tiny_model_path, folder)) as running:
        yield running


@pytest.fixture
def filled_server(stoppable_server, tiny_model_path, embeddings, texts) -> Server:
    """Return a filled Chroma server that the test may stop."""
    client = chromadb.HttpClient(host=HOST, port=stoppable_server.port)
    fill_collection(texts, str(tiny_model_path), embeddings.mean, client=client)
    close(client)
    return stoppable_server


def arguments(model: Path, store: Path | str, *more: str) -> list[str]:
    """Return the arguments of `langchain-sift`."""
    command = ["serve", "--model", str(model), "--store", str(store), "--port", "0"]
    return [*command, "--name", NAME, "--mode", "ttft", *FINETUNE, *more]


class Process:
    """A process of `langchain-sift serve`, on a free port."""

    def __init__(self, model: Path, store: Path | str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "langchain_sift", *arguments(model, store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)["url"].removesuffix("/v1")

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit code and the error output."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors


@pytest.fixture
def serve(tiny_model_path) -> Iterator[Callable[[Path], Process]]:
    """Return a function that starts a process."""
    processes: list[Process] = []

    def start(store: Path) -> Process:
        processes.append(Process(tiny_model_path, store))
        return processes[-1]

    yield start
    for started in processes:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate(timeout=SECONDS)


def check_command_fails(model: Path, store: Path | str, message: str, *more: str) -> None:
    """Check that the command reports an error in place of serving."""
    result = CliRunner().invoke(app, arguments(model, store, *more))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


# The store


def test_requests_get_503_while_the_store_is_down(filled_server, tiny_model_path):
    store = f"http://{HOST}:{filled_server.port}"
    with (
        run_endpoint(make_settings(tiny_model_path, store)) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=SECONDS) as client,
    ):
        before = client.post(TEXT, json=body()).json()
        assert before["ttft"]["steps"] == 3
        assert client.get("/health").json() == {"status": "ok", "engine": "ok", "store": "ok"}
        filled_server.kill()
        for mode in ("rag", "ttft", "both"):
            for stream in (False, True):
                response = client.post(TEXT, json=body(stream=stream, ttft={"mode": mode, "k": 1}))
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "store_unavailable"
                assert int(response.headers["retry-after"]) >= 1
        response = client.get("/health")
        assert response.status_code == 200  # the model can still answer without documents
        assert response.json() == {"status": "degraded", "engine": "ok", "store": "unavailable"}
        assert client.post(TEXT, json=body(ttft={"mode": "base"})).status_code == 200
        assert endpoint.service.engine.status().admitted == 0
        filled_server.start()
        responses = []

        def is_answered() -> bool:
            responses.append(client.post(TEXT, json=body()))
            assert responses[-1].status_code in {200, 503}
            return responses[-1].status_code == 200

        wait_until(is_answered)
        after = responses[-1].json()
        assert after["choices"] == before["choices"]
        assert after["ttft"]["documents"] == before["ttft"]["documents"]
        assert client.get("/health").json()["status"] == "ok"


def test_requests_get_503_while_the_store_hangs(filled_server, tiny_model_path, monkeypatch):
    store = f"http://{HOST}:{filled_server.port}"
    monkeypatch.setattr(
        retrievers,
        "SIFTRetriever",
        lambda **settings: SIFTRetriever(**settings, timeout=8),
    )
    with (
        run_endpoint(make_settings(tiny_model_path, store)) as endpoint,
        # The client's timeout is below the retriever's default of 30 s.
        httpx.Client(base_url=endpoint.url, timeout=25) as client,
    ):
        assert client.post(TEXT, json=body()).status_code == 200
        filled_server.hang()
        try:
            assert client.post(TEXT, json=body()).status_code == 503
        finally:
            filled_server.resume()
        assert client.post(TEXT, json=body()).status_code == 200


def test_a_missing_collection_or_server_is_reported_at_the_start(
    filled_server, tiny_model_path, monkeypatch
):
    store = f"http://{HOST}:{filled_server.port}"
    message = "no collection 'other': choose one of ['texts']"
    check_command_fails(tiny_model_path, store, message, "--collection", "other")
    monkeypatch.setattr(retrievers, "_CONNECT_SECONDS", 0.5)
    filled_server.hang()
    try:
        with pytest.raises(StoreTimeout, match="did not respond"):
            open_service(make_settings(tiny_model_path, store))
    finally:
        filled_server.resume()
    monkeypatch.undo()
    filled_server.kill()
    with pytest.raises(StoreUnavailable, match="no Chroma server"):
        open_service(make_settings(tiny_model_path, store))
    check_command_fails(tiny_model_path, store, f"error: there is no Chroma server at {store}")


def test_a_folder_has_one_server_at_a_time(folder, tiny_model_path, serve):
    first = serve(folder)
    url = first.url()
    check_command_fails(tiny_model_path, folder, "is open in another process")
    with pytest.raises(StoreInUse):
        open_service(make_settings(tiny_model_path, folder))
    assert httpx.post(url + TEXT, json=body(), timeout=SECONDS).status_code == 200
    first.process.kill()  # the operating system releases the lock
    first.process.wait(SECONDS)
    second = serve(folder)
    assert httpx.get(second.url() + "/health", timeout=SECONDS).json()["status"] == "ok"
    code, errors = second.stop(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in errors


# Equal tokens


@pytest.fixture(scope="module")
def answers_alone(server, tiny_model_path, embeddings, texts) -> Iterator[Endpoint]:
    """Return an endpoint on a Chroma server that trains one request at a time."""
    client = chromadb.HttpClient(host=HOST, port=server.port)
    collection = fill_collection(
        texts, str(tiny_model_path), embeddings.mean, client=client, collection="served-texts"
    )
    store = f"http://{HOST}:{server.port}"
    settings = make_settings(
        tiny_model_path,
        store,
        collection=collection._collection_name,
        limits=Limits(max_batch_size=1),
    )
    with run_endpoint(settings) as running:
        yield running
    close(client)


@pytest.mark.parametrize("mode", ["base", "rag", "ttft", "both"])
def test_answers_over_http_equal_those_in_process(answers_alone, tiny_model_path, mode):
    """The endpoint, and the store behind it, are used over HTTP."""
    settings = answers_alone.service.settings
    view = answers_alone.service.view_of(settings.tenants.members[0])
    synchronous = retrievers.open_collection(
        settings.store,
        settings.collection,
        lambda _: answers_alone.service.engine.language_model,
    )
    retriever = view.retriever.model_copy(update={"vectorstore": synchronous})
    chat = ChatTestTimeFineTuned(
        model=str(tiny_model_path),
        dtype="float32",
        finetune=settings.finetune,
        limits=Limits(max_batch_size=1, max_requests=2),  # a separate engine
        max_tokens=24,
    )
    assert chat.engine is not answers_alone.service.engine
    with httpx.Client(base_url=answers_alone.url, timeout=SECONDS) as client:
        for question in ("Who hides seven maps?", "The engine measures", "Every comet"):
            documents = retriever.invoke(question)
            prompt = question
            if mode in {"rag", "both"}:
                shown = dict.fromkeys(document.page_content for document in documents)
                context = "\n\n".join(reversed(shown))
                prompt = f"Use these documents to answer.\n\n{context}\n\n{question}"
            training = documents if mode in {"ttft", "both"} else []
            expected = chat.invoke(prompt, documents=training)
            response = client.post(
                CHAT,
                json={
                    "model": NAME,
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 24,
                    "ttft": {"mode": mode},
                },
            ).json()
            assert response["choices"][0]["message"]["content"] == expected.text
            tokens = response["usage"]["completion_tokens"]
            assert tokens == expected.usage_metadata["output_tokens"]
            record = expected.response_metadata["ttft"]
            assert response["ttft"]["documents"] == record["documents"]
            assert response["ttft"]["losses"] == record["losses"]
    close(synchronous._client)


# Disconnects


@pytest.fixture
def steps(monkeypatch) -> Iterator[tuple[list[int], threading.Event]]:
    """Block the engine in its first gradient step; return the steps, and the event to go on."""
    begun: list[int] = []
    go_on = threading.Event()
    gradients = Trainer._gradients

    def step(trainer, first, rows):
        begun.append(len(rows))
        assert go_on.wait(SECONDS)
        return gradients(trainer, first, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_gradients", step)
        yield begun, go_on
        go_on.set()


def disconnects(endpoint: Endpoint) -> str:
    """Return the number of disconnects, from the metrics."""
    metrics = httpx.get(endpoint.url + "/metrics", timeout=SECONDS).text
    return metrics.partition("\nlangchain_sift_disconnects_total ")[2].split()[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ["closed", "reset", "timed out"])
def test_training_stops_within_a_step_after_a_disconnect(endpoint, steps, stream, way):
    begun, go_on = steps
    before = disconnects(endpoint)
    request = body(stream=stream, ttft={"k": 50, "steps_per_document": 2})
    if way == "timed out":
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(endpoint.url + TEXT, json=request, timeout=httpx.Timeout(SECONDS, read=0.3))
    else:
        content = json.dumps(request).encode()
        address = endpoint.url.removeprefix("http://")
        connection = socket.create_connection((HOST, int(address.rpartition(":")[2])))
        connection.sendall(
            f"POST {TEXT} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        wait_until(lambda: begun)
        if way == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_until(lambda: disconnects(endpoint) != before)  # the engine is still in its step
    go_on.set()
    wait_until(lambda: endpoint.service.engine.status().at_work == 0)
    assert endpoint.service.engine.status().admitted == 0
    assert len(begun) <= 2  # of 100
    assert httpx.post(endpoint.url + TEXT, json=body(), timeout=SECONDS).status_code == 200


def test_a_stream_ends_after_a_disconnect(endpoint):
    with httpx.Client(base_url=endpoint.url, timeout=SECONDS) as client:
        for _ in range(5):
            request = body(stream=True, max_tokens=200, ttft={"mode": "base"})
            with client.stream("POST", TEXT, json=request) as response:
                next(response.iter_lines())
    wait_until(lambda: endpoint.service.engine.status().admitted == 0)
    wait_until(lambda: endpoint.service.engine.status().at_work == 0)


# Overload


def test_ten_times_the_capacity_is_rejected_and_the_rest_is_answered(
    folder, tiny_model_path, steps
):
    capacity = 4
    _, go_on = steps
    limits = Limits(max_batch_size=2, max_requests=capacity)
    with run_endpoint(make_settings(tiny_model_path, folder, limits=limits)) as endpoint:

        def post(number: int) -> httpx.Response:
            with httpx.Client(base_url=endpoint.url, timeout=SECONDS) as client:
                return client.post(TEXT, json=body(seed=number, ttft={"k": 20}))

        with ThreadPoolExecutor(10 * capacity) as pool:
            requests = [pool.submit(post, number) for number in range(10 * capacity)]
            responses = []
            for request in as_completed(requests):
                responses.append(request.result())
                if len(responses) == 9 * capacity:
                    go_on.set()  # the others wait for the engine
        rejected, answered = responses[: 9 * capacity], responses[9 * capacity :]
        for response in rejected:
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
        for response in answered:
            assert response.status_code == 200
            assert response.json()["ttft"]["steps"] == 20
        assert endpoint.service.engine.status().admitted == 0


# The end


def test_requests_are_answered_before_the_server_stops(folder, serve):
    process = serve(folder)
    url = process.url()
    assert httpx.post(url + TEXT, json=body(), timeout=SECONDS).status_code == 200
    long = body(max_tokens=100, ttft={"k": 40, "steps_per_document": 4})
    with ThreadPoolExecutor(1) as pool:

        def ask() -> Future[httpx.Response]:
            return pool.submit(httpx.post, url + TEXT, json=long, timeout=SECONDS)

        request = ask()
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            while client.get("/health").json()["engine"] != "busy":
                if request.done():  # before this thread looked
                    request = ask()
        process.process.send_signal(signal.SIGTERM)
        assert request.result().status_code == 200
    _, errors = process.process.communicate(timeout=SECONDS)
    assert process.process.returncode in {-signal.SIGTERM, 128 + signal.SIGTERM, 0}
    assert "Traceback" not in errors


def test_a_stream_that_a_shutdown_cuts_ends_with_an_error(
    folder, tiny_model_path, monkeypatch, caplog
):
    """The server's log has no traceback of it."""
    begun, gradients = threading.Event(), Trainer._gradients

    def slowly(trainer, first, rows):
        time.sleep(0.05)
        return gradients(trainer, first, rows)

    def read(url: str) -> str:
        options = {"k": 40, "steps_per_document": 16}
        sent = {"json": body(stream=True, ttft=options), "timeout": SECONDS}
        with httpx.stream("POST", url + TEXT, **sent) as response:
            begun.set()
            return response.read().decode()

    monkeypatch.setattr(Trainer, "_gradients", slowly)
    monkeypatch.setattr(server, "_SHUTDOWN_SECONDS", 0)
    settings = make_settings(tiny_model_path, folder, status_seconds=0.01)
    with ThreadPoolExecutor(1) as pool:
        with run_endpoint(settings) as endpoint:
            stream = pool.submit(read, endpoint.url)
            assert begun.wait(SECONDS)
        *_, event, done = stream.result().strip().split("\n\n")
    error = json.loads(event.removeprefix("data: "))["error"]
    assert (error["code"], done) == ("shutting_down", "data: [DONE]")
    assert "Traceback" not in caplog.text
