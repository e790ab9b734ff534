"""Streams begin at once, show life while a model learns, and end with an error if one comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from langchain_sift.errors import EngineOverloaded
from langchain_sift.serving.error_responses import failure_of
from langchain_sift.serving.streams import Merged, ServerEvent, event_stream

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}


class Client:
    """Receives a response, and says how many comments have come."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.changed = asyncio.Event()

    async def send(self, message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self.changed.set()

    async def receive(self):
        await asyncio.Event().wait()

    async def until(self, condition) -> None:
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()

    @property
    def events(self):
        return [line for line in self.body.decode().split("\n\n") if line and line[0] != ":"]


async def respond(source, client, status_seconds=0.01, comment_seconds=0.01):
    response = await event_stream(
        source,
        status_seconds=status_seconds,
        comment_seconds=comment_seconds,
        on_error=lambda error: [ServerEvent(failure_of(error).body())],
    )
    await response(SCOPE, client.receive, client.send)


async def test_headers_and_comments_come_while_the_source_is_silent():
    ready, client = asyncio.Event(), Client()

    async def source() -> AsyncGenerator[ServerEvent]:
        await ready.wait()
        yield ServerEvent(b"1")

    task = asyncio.ensure_future(respond(source(), client))
    await client.until(lambda client: client.body.count(b":") >= 3)
    assert client.status == 200
    assert client.events == []
    ready.set()
    await task
    assert client.events == ["data: 1", "data: [DONE]"]


async def test_an_error_before_the_headers_is_raised():
    async def source() -> AsyncGenerator[ServerEvent]:
        raise EngineOverloaded("full")
        yield ServerEvent(b"")

    with pytest.raises(EngineOverloaded):
        await respond(source(), Client(), status_seconds=60)


async def test_an_error_after_the_headers_is_the_last_event():
    ready, client = asyncio.Event(), Client()

    async def source() -> AsyncGenerator[ServerEvent]:
        await ready.wait()
        raise EngineOverloaded("full")
        yield ServerEvent(b"")

    task = asyncio.ensure_future(respond(source(), client))
    await client.until(lambda client: client.status)
    ready.set()
    await task
    error, done = client.events
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "overloaded"
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"
    assert done == "data: [DONE]"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_closes_the_source(begun):
    closed, client = asyncio.Event(), Client()

    async def source() -> AsyncGenerator[ServerEvent]:
        try:
            await asyncio.Event().wait()
            yield ServerEvent(b"")
        finally:
            closed.set()

    task = asyncio.ensure_future(respond(source(), client, status_seconds=0.01 if begun else 60))
    if begun:
        await client.until(lambda client: client.status)
    else:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await closed.wait()


async def test_sources_are_merged_and_closed_together():
    closed = []

    async def source(name: str, count: int) -> AsyncGenerator[str]:
        try:
            for number in range(count):
                yield f"{name}{number}"
            if name == "c":
                await asyncio.Event().wait()
        finally:
            closed.append(name)

    merged: Merged[str] = Merged()
    for name, count in (("a", 3), ("b", 40)):
        merged.add(source(name, count))
    items = [item async for item in merged]
    assert [item for item in items if item[0] == "a"] == ["a0", "a1", "a2"]
    assert len(items) == 43
    merged.add(source("c", 1))
    assert await anext(merged) == "c0"
    assert await merged.next_within(0.001) is None
    await merged.aclose()
    assert sorted(closed) == ["a", "b", "c"]
