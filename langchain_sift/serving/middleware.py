"""Who comes in: tokens, places and sizes, looked at before a request is read.

And who has left: an answer that nobody waits for is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_sift.errors import EngineOverloaded, StoreError
from langchain_sift.serving.error_responses import Failure, Refused, failure_of
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.service import Service
from langchain_sift.serving.tenants import Tenant

ANSWERING = ("/v1/chat/completions", "/v1/completions")
_OTHERS = ("/v1/models", "/health", "/metrics", "/openapi.json")
_BODY_SECONDS = 10.0

_ENDS = Failure(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "the server was told to end before this was answered: ask again",
    "shutting_down",
    headers={"Retry-After": "1"},
)

_log = logging.getLogger("langchain_sift.serving")


class Gate:
    """ASGI middleware before the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        metrics: Metrics,
        hosts: Collection[str] | None = None,
    ) -> None:
        """Stand before an application.

        Args:
            app: What answers.
            service: Who may ask, and how much at once.
            metrics: Counts what is answered.
            hosts: Names by which clients may call this server; None: any.
        """
        self._app = app
        self._service = service
        self._tenants = service.settings.tenants
        self._metrics = metrics
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        answer = _Answer(send)
        began = time.perf_counter()
        try:
            await self._let_in(path, scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the server goes on, and the client hears of it
            await self._refuse(error, scope, receive, answer)
        except asyncio.CancelledError:
            if not answer.status:
                await _ENDS.response()(scope, receive, answer)
            raise
        if answer.status:
            known = path if path in (*ANSWERING, *_OTHERS) else "other"
            self._metrics.request(known, answer.status, time.perf_counter() - began)

    async def _let_in(self, path: str, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if path == "/metrics" and not self._tenants.may_read_metrics(_token(headers)):
            raise Refused(_unauthorized("the metrics need the token of [metrics]"))
        if not path.startswith("/v1/"):
            await self._app(scope, receive, answer)
            return
        tenant = self._owner(headers)
        if scope["method"] != "POST" or path not in ANSWERING:
            await self._app(scope, receive, answer)
            return
        with self._service.admit(tenant) as admitted:
            answer.before_last = admitted.end  # the client may ask again at once
            body = await self._read(headers, receive)
            if body is not None:
                scope.setdefault("state", {})["admitted"] = admitted
                await self._answer(scope, body, receive, answer)

    def _check_host(self, headers: Headers) -> None:
        """Refuse what a web page sends here by a name of its own (DNS rebinding)."""
        host = headers.get("host", "")
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            raise Refused(
                Failure(
                    HTTPStatus.FORBIDDEN,
                    "without tokens this server answers to local names alone: call it as localhost",
                    "host_not_allowed",
                )
            )

    def _owner(self, headers: Headers) -> Tenant:
        owner = self._tenants.owner_of(_token(headers))
        if owner is None:
            self._metrics.refusal("unauthorized")
            raise Refused(_unauthorized("the request has no token, or one that is not known here"))
        return owner

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the body; None if the client left."""
        most = self._service.settings.max_body_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise Refused(_too_large(most))
        parts: list[bytes] = []
        length = 0  # counted as they come: there may be a million of them
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    length += len(parts[-1])
                    if length > most:
                        raise Refused(_too_large(most))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            msg = f"the request was not there within {_BODY_SECONDS:g} s"
            raise Refused(Failure(HTTPStatus.REQUEST_TIMEOUT, msg, "request_timeout")) from error

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Answer for as long as the client is there."""
        left = asyncio.Event()
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def once() -> Message:
            if unread:
                return unread.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        answering = asyncio.ensure_future(self._app(scope, once, answer))
        watching = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and not answer.complete:
                self._metrics.disconnect()
                left.set()
                answering.cancel()
            await asyncio.wait((answering,))
            if not answering.cancelled():
                answering.result()
        finally:
            for task in (answering, watching):
                task.cancel()

    async def _refuse(
        self, error: Exception, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        if isinstance(error, EngineOverloaded):
            self._metrics.refusal("overloaded")
        failure = failure_of(error, retry_after=self._service.retry_after())
        if failure.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._metrics.refusal("tenant_limit")
        log_failure(error, failure)
        if not answer.status:
            await failure.response()(scope, receive, answer)


def log_failure(error: BaseException, failure: Failure) -> None:
    """Log what the operator has to know of; of errors that are not ours, only where they came from.

    Their text may be a prompt's or a document's; ours holds none.
    """
    if isinstance(error, StoreError):
        _log.error("%s: %s", type(error).__name__, error)
    elif failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error("%s\n%s", type(error).__name__, where)


class _Answer:
    """Sends an answer, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.complete = False
        self.before_last: Callable[[], None] = lambda: None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = list(message.get("headers", []))
            headers.append((b"x-request-id", uuid.uuid4().hex.encode()))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self.complete:
                self.before_last()
        await self._send(message)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _unauthorized(message: str) -> Failure:
    return Failure(
        HTTPStatus.UNAUTHORIZED,
        message,
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _too_large(most: int) -> Failure:
    message = f"the request is larger than {most} bytes"
    return Failure(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "request_too_large")
