"""The endpoint as a process: its store goes and comes, clients leave, and it is told to end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from endpoint import HOST, NAME, put_texts_of_two, running, settings_for, until
from integration_tests.conftest import close
from integration_tests.servers import Server

from langchain_sift import ChatTestTimeFineTuned, Limits, SIFTRetriever
from langchain_sift.errors import StoreInUse, StoreTimeout, StoreUnavailable
from langchain_sift.serving import open_service, retrievers
from langchain_sift.ttft.training.trainer import Trainer

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
LEARNING = ("--k", "3", "--lora-rank", "4", "--learning-rate", "0.01", "--max-length", "64")
RECOVERY = 5.0


def body(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "The old king", "max_tokens": 4, **more}


@pytest.fixture
def folder(tiny_model_path, embeddings, texts, tmp_path) -> Path:
    put_texts_of_two(texts, str(tiny_model_path), embeddings.mean, folder=tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def filled_server(own_server, tiny_model_path, embeddings, texts) -> Server:
    client = chromadb.HttpClient(host=HOST, port=own_server.port)
    put_texts_of_two(texts, str(tiny_model_path), embeddings.mean, client=client)
    close(client)
    return own_server


class Process:
    """`langchain-sift serve`, on a free port."""

    def __init__(self, model: Path, store: Path | str, *more: str) -> None:
        command = [sys.executable, "-m", "langchain_sift", "serve", "--model", str(model)]
        command += ["--store", str(store), "--port", "0", "--name", NAME, *LEARNING, *more]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def url(self) -> str:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)["url"].removesuffix("/v1")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to end; return its exit code and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture
def serve(tiny_model_path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def started(store: Path | str, *more: str) -> Process:
        processes.append(Process(tiny_model_path, store, *more))
        return processes[-1]

    yield started
    for one in processes:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate(timeout=30)


# The store


def test_a_store_that_goes_down_is_503_and_served_again_when_it_is_back(
    filled_server, tiny_model_path
):
    store = f"http://{HOST}:{filled_server.port}"
    with (
        running(settings_for(tiny_model_path, store)) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=60) as client,
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
        assert response.status_code == 200  # the model alone still answers
        assert response.json() == {"status": "degraded", "engine": "ok", "store": "unavailable"}
        assert client.post(TEXT, json=body(ttft={"mode": "base"})).status_code == 200
        assert endpoint.service.engine.status().admitted == 0
        filled_server.start()
        back = time.monotonic()
        while (response := client.post(TEXT, json=body())).status_code != 200:
            assert response.status_code == 503
            assert time.monotonic() < back + RECOVERY, "it did not recover"
        assert response.json()["choices"] == before["choices"]
        assert response.json()["ttft"]["documents"] == before["ttft"]["documents"]
        assert client.get("/health").json()["status"] == "ok"


def test_a_store_that_hangs_is_503_within_its_deadline(filled_server, tiny_model_path, monkeypatch):
    store = f"http://{HOST}:{filled_server.port}"
    monkeypatch.setattr(
        retrievers,
        "SIFTRetriever",
        lambda **settings: SIFTRetriever(**settings, timeout=0.5),
    )
    with (
        running(settings_for(tiny_model_path, store)) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=60) as client,
    ):
        assert client.post(TEXT, json=body()).status_code == 200
        filled_server.hang()
        try:
            began = time.monotonic()
            response = client.post(TEXT, json=body())
            assert response.status_code == 503
            assert time.monotonic() - began < 15  # and no 30, the default
        finally:
            filled_server.go_on()
        assert client.post(TEXT, json=body()).status_code == 200


def test_a_server_of_chroma_that_is_down_hangs_or_lacks_the_collection_at_start(
    filled_server, tiny_model_path, monkeypatch, serve
):
    store = f"http://{HOST}:{filled_server.port}"
    process = serve(store, "--collection", "other")
    _, said = process.process.communicate(timeout=120)
    assert process.process.returncode == 2
    assert "no collection 'other': choose one of ['texts']" in " ".join(said.split())
    monkeypatch.setattr(retrievers, "_CONNECT_SECONDS", 0.5)
    filled_server.hang()
    try:
        with pytest.raises(StoreTimeout, match="did not respond"):
            open_service(settings_for(tiny_model_path, store))
    finally:
        filled_server.go_on()
    monkeypatch.undo()
    filled_server.kill()
    with pytest.raises(StoreUnavailable, match="no Chroma server"):
        open_service(settings_for(tiny_model_path, store))
    process = serve(store)
    out, said = process.process.communicate(timeout=120)
    assert process.process.returncode == 2
    assert f"error: there is no Chroma server at {store}" in " ".join(said.split())
    assert "Traceback" not in said
    assert out == ""


def test_one_folder_has_one_server(folder, tiny_model_path, serve):
    first = serve(folder)
    url = first.url()
    second = serve(folder)
    _, said = second.process.communicate(timeout=120)
    assert second.process.returncode == 2
    assert "is open in another process" in " ".join(said.split())
    with pytest.raises(StoreInUse):
        open_service(settings_for(tiny_model_path, folder))
    assert httpx.post(url + TEXT, json=body(), timeout=60).status_code == 200
    first.process.kill()  # the lock dies with it
    first.process.wait(30)
    third = serve(folder)
    assert httpx.get(third.url() + "/health", timeout=60).json()["status"] == "ok"


# The same tokens


@pytest.mark.parametrize("mode", ["base", "rag", "ttft", "both"])
def test_the_tokens_are_those_of_the_process(filled_server, tiny_model_path, mode):
    """Over HTTP, with the store over HTTP as well; and in process."""
    store = f"http://{HOST}:{filled_server.port}"
    settings = settings_for(tiny_model_path, store, limits=Limits(max_batch_size=1))
    with (
        running(settings) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=60) as client,
    ):
        view = endpoint.service.view_of(settings.tenants.members[0])
        by_threads = retrievers.open_collection(
            store, "texts", lambda _: endpoint.service.engine.language_model
        )
        retriever = view.retriever.model_copy(update={"vectorstore": by_threads})
        chat = ChatTestTimeFineTuned(
            model=str(tiny_model_path),
            dtype="float32",
            finetune=settings.finetune,
            limits=Limits(max_batch_size=1, max_requests=2),  # an engine of its own
            max_tokens=24,
        )
        assert chat.engine is not endpoint.service.engine
        for question in ("Who hides seven maps?", "The engine measures", "Every comet"):
            documents = retriever.invoke(question, replace=mode in {"ttft", "both"})
            texts = dict.fromkeys(document.page_content for document in documents)
            asked = question
            if mode in {"rag", "both"}:
                shown = "\n\n".join(texts)
                asked = f"Use these documents to answer.\n\n{shown}\n\n{question}"
            learned = documents if mode in {"ttft", "both"} else []
            expected = chat.invoke(asked, documents=learned)
            response = client.post(
                CHAT,
                json={
                    "model": NAME,
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 24,
                    "ttft": {"mode": mode},
                },
            )
            found = response.json()
            assert found["choices"][0]["message"]["content"] == expected.text
            assert found["usage"]["completion_tokens"] == expected.usage_metadata["output_tokens"]
            told = expected.response_metadata["ttft"]
            assert found["ttft"]["documents"] == told["documents"]
            assert found["ttft"]["losses"] == told["losses"]
        close(by_threads._client)


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ["closed", "reset", "timed out"])
def test_training_stops_within_a_step_when_the_connection_is_gone(
    folder, tiny_model_path, monkeypatch, stream, way
):
    begun: list[float] = []
    gradients = Trainer._gradients

    def slowly(trainer, first, rows):
        begun.append(time.monotonic())
        time.sleep(0.1)
        return gradients(trainer, first, rows)

    monkeypatch.setattr(Trainer, "_gradients", slowly)
    with running(settings_for(tiny_model_path, folder)) as endpoint:
        status = endpoint.service.engine.status
        asked = body(stream=stream, ttft={"k": 50, "steps_per_document": 2})
        if way == "timed out":
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(endpoint.url + TEXT, json=asked, timeout=httpx.Timeout(30, read=0.6))
        else:
            content = json.dumps(asked).encode()
            address = endpoint.url.removeprefix("http://")
            connection = socket.create_connection((HOST, int(address.rpartition(":")[2])))
            connection.sendall(
                f"POST {TEXT} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            until(lambda: len(begun) >= 2)
            if way == "reset":
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
        left = time.monotonic()
        until(lambda: status().at_work == 0, 5)
        assert status().admitted == 0
        # One that had begun by then, or began while the server heard of it.
        assert len([one for one in begun if one > left]) <= 1
        assert len(begun) < 20
        monkeypatch.undo()
        assert httpx.post(endpoint.url + TEXT, json=body(), timeout=60).status_code == 200


def test_a_stream_that_is_left_in_the_middle_ends(folder, tiny_model_path):
    with running(settings_for(tiny_model_path, folder)) as endpoint:
        with httpx.Client(base_url=endpoint.url, timeout=60) as client:
            for _ in range(5):
                asked = body(stream=True, max_tokens=200, ttft={"mode": "base"})
                with client.stream("POST", TEXT, json=asked) as response:
                    next(response.iter_lines())
        until(lambda: endpoint.service.engine.status().admitted == 0, 5)
        until(lambda: endpoint.service.engine.status().at_work == 0, 5)


# Too much


def test_ten_times_too_much_is_refused_and_what_is_admitted_is_answered(folder, tiny_model_path):
    most = 4
    limits = Limits(max_batch_size=2, max_requests=most)
    with running(settings_for(tiny_model_path, folder, limits=limits)) as endpoint:
        start = threading.Barrier(10 * most)

        def ask(number: int) -> tuple[int, dict[str, Any], httpx.Headers]:
            with httpx.Client(base_url=endpoint.url, timeout=60) as client:
                client.get("/v1/models")  # connected
                start.wait(60)
                response = client.post(TEXT, json=body(seed=number, ttft={"k": 20}))
                return response.status_code, response.json(), response.headers

        with ThreadPoolExecutor(10 * most) as pool:
            answers = list(pool.map(ask, range(10 * most)))
        statuses = [status for status, _, _ in answers]
        assert {*statuses} == {200, 503}
        assert statuses.count(200) >= most
        for status, answer, headers in answers:
            if status == 503:
                assert answer["error"]["code"] == "overloaded"
                assert int(headers["retry-after"]) >= 1
            else:
                assert answer["ttft"]["steps"] == 20
        assert endpoint.service.engine.status().admitted == 0


# The end


def test_it_ends_when_it_is_told_to(folder, serve):
    process = serve(folder)
    url = process.url()
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.post(TEXT, json=body()).status_code == 200
    code, said = process.end()
    assert code in {-signal.SIGTERM, 128 + signal.SIGTERM, 0}
    assert "Traceback" not in said
    process = serve(folder)
    process.url()
    code, said = process.end(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in said


def test_what_is_being_answered_when_it_is_told_to_end_is_answered(folder, serve):
    process = serve(folder)
    url = process.url()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, url + TEXT, json=body(max_tokens=100, ttft={"k": 40}), timeout=60
        )
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: client.get("/health").json()["engine"] == "busy", 20)
        process.process.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200
    process.process.communicate(timeout=60)
