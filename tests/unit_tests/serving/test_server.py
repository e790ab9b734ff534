"""Report the address of a server when it listens."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from endpoint import make_settings

from langchain_sift.serving import server


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


async def status(app, url):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return (await client.get(f"{url}/models")).status_code
