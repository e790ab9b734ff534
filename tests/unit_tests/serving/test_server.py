"""Report the address of a server when it listens."""

from __future__ import annotations

import asyncio
import re
import socket

import httpx
import pytest
from endpoint import HOST, make_settings

from langchain_sift.config import Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.serving import open_service, server
from langchain_sift.serving.memory import describe_memory


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_the_server_accepts_requests_at_the_reported_url(
    host, filled_folder, tiny_model_path, monkeypatch
):
    reported, statuses = [], []

    def run(uvicorn_server, _):
        uvicorn_server._on_ready(uvicorn_server._url)
        urls = [*reported, "http://rebound.example/v1"]
        statuses.extend(asyncio.run(status(uvicorn_server.config.app, url)) for url in urls)

    monkeypatch.setattr(server._Server, "run", run)
    settings = make_settings(tiny_model_path, filled_folder)
    server.serve(settings, host=host, port=0, on_ready=reported.append)
    assert statuses == [200, 403]


def test_of_two_servers_that_start_at_one_address_the_second_is_refused(
    filled_folder, tiny_model_path, monkeypatch
):
    settings, reported = make_settings(tiny_model_path, filled_folder), []
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, 0))
        port = other.getsockname()[1]

        def load_slowly(settings):
            other.listen()
            return open_service(settings)

        monkeypatch.setattr(server, "open_service", load_slowly)
        monkeypatch.setattr(server._Server, "run", lambda *_: pytest.fail("it is deaf"))
        with pytest.raises(
            ArgumentError, match=f"cannot listen on {HOST}:{port}: .*another --port"
        ):
            server.serve(settings, host=HOST, port=port, on_ready=reported.append)
    assert reported == []


def test_the_memory_of_a_full_batch_is_told_before_the_first_request(new_service):
    service = new_service(limits=Limits(max_batch_size=4, max_memory_gb=64.0))
    text = describe_memory(service)
    assert re.search(r"^memory: \d+\.\d\d GB in use; by estimate 0\.\d\d GB more for one", text)
    assert text.endswith(
        "for a batch of 4; at most 2.00 GB more for sessions; batches are made smaller to stay "
        "below 64 GB"
    )


def test_the_memory_is_that_of_the_documents_in_the_prompt(new_service):
    """By default twenty documents are, and the prompt is then as long as the context."""
    settings = {"mode": "rag", "limits": Limits(max_batch_size=2000)}
    needed = []
    for more in ({}, {"context_k": 30}, {"context_k": 1}, {"ceilings": {"context_k": 1}}):
        text = describe_memory(new_service(**settings, **more))
        needed.append(float(re.search(r"(\S+) GB more for a batch", text)[1]))
    assert needed[0] == needed[1] > needed[2] == needed[3]


async def status(app, url):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return (await client.get(f"{url}/models")).status_code
