"""The address that is told when a server listens is one at which it answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from endpoint import settings_for

from langchain_sift.serving import server as running


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_it_answers_at_the_address_that_it_tells(host, filled_folder, tiny_model_path, monkeypatch):
    told, found = [], []

    def run(server, _):
        server._on_ready(server._url)
        urls = [*told, "http://rebound.example/v1"]
        found.extend(asyncio.run(status(server.config.app, url)) for url in urls)

    monkeypatch.setattr(running._Server, "run", run)
    settings = settings_for(tiny_model_path, filled_folder)
    running.serve(settings, host=host, port=0, on_ready=told.append)
    assert found == [200, 403]


async def status(app, url):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return (await client.get(f"{url}/models")).status_code
