"""Run the endpoint on Ray with gradient steps of a fixed duration, and a journal of its events.

All else is as in `langchain_sift.serving.on_ray`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_sift.serving import on_ray
from langchain_sift.ttft.training.slots import Slots


class Journal:
    """A file to which several processes append lines: time, process, event, request."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def write(self, event: str, request: str = "-") -> None:
        with self._path.open("a") as file:
            file.write(f"{time.time()} {os.getpid()} {event} {request}\n")

    def read(self) -> list[tuple[float, int, str, str]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        parts = (line.split() for line in lines)
        return [(float(when), int(pid), event, request) for when, pid, event, request in parts]


def slow_down(seconds: float, journal: Journal) -> None:
    """Extend each gradient step of this process by a number of seconds."""
    step = Slots.step

    def slow(slots: Slots, limits: Mapping[int, float | None]) -> None:
        step(slots, limits)
        journal.write("step")
        time.sleep(seconds)

    Slots.step = slow  # type: ignore[method-assign]


class SlowEndpoint(on_ray.Endpoint.func_or_class):  # type: ignore[misc]
    async def __init__(self, args: dict[str, Any]) -> None:
        self._journal = Journal(args["journal"])
        slow_down(args["step_seconds"], self._journal)
        await super().__init__(args["settings"])

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = super().__serve_build_asgi_app__()
        journal = self._journal

        async def journaled(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope.get("headers", ()))
            request = headers.get(b"x-request-id", b"-").decode()

            async def send_journaled(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 200:
                    journal.write("answer", request)
                await send(message)

            if scope["type"] == "http" and scope["method"] == "POST":
                journal.write("begin", request)
                await app(scope, receive, send_journaled)
            else:
                await app(scope, receive, send)

        return journaled


def build_app(args: dict[str, Any]) -> Application:
    real = on_ray.build_app(args["settings"])._bound_deployment
    slow: Any = serve.deployment(SlowEndpoint).options(
        name="Endpoint",
        max_ongoing_requests=real.max_ongoing_requests,
        max_queued_requests=real.max_queued_requests,
        backpressure_config=real._deployment_config.backpressure_config,
        request_router_config=real._deployment_config.request_router_config,
        health_check_period_s=real._deployment_config.health_check_period_s,
        health_check_timeout_s=real._deployment_config.health_check_timeout_s,
    )
    return slow.bind(args)
