"""Send a response, record its status and its end, and end it at a shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.request_ids import HEADER
from langchain_sift.serving.streams import LAST_LINES

_END_SECONDS = 1.0
"""For the end of a response at a shutdown, which a client may not read."""
_SHUTTING_DOWN = Failure(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "the server is shutting down: send the request again",
    "shutting_down",
    headers={"Retry-After": "1"},
)


class SentResponse:
    """Sends the messages of a response, and records its status and its end."""

    def __init__(self, send: Send, request_id: str | None) -> None:
        """Begin without a message.

        Args:
            send: Sends a message.
            request_id: The id of the request, for a header. None means no such header.
        """
        self._send = send
        self._request_id = request_id
        self.status = 0
        self.complete = False
        self.before_last: Callable[[], None] = lambda: None

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._request_id is not None:
                headers: list[Any] = list(message.get("headers", []))
                headers.append((HEADER.encode(), self._request_id.encode()))
                message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self.complete:
                self.before_last()
        await self._send(message)

    async def end_at_shutdown(self, scope: Scope, receive: Receive) -> None:
        """Tell the client that the server shuts down: by the status, or by a stream's last event.

        A client that does not read gets neither, and does not keep the server from ending.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                if not self.status:
                    await _SHUTTING_DOWN.response()(scope, receive, self)
                elif not self.complete and (last_lines := scope["state"].get(LAST_LINES)):
                    body = last_lines(RequestRejected(_SHUTTING_DOWN))
                    await self({"type": "http.response.body", "body": body})
