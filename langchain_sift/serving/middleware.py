"""Check tokens, limits and sizes of requests, and cancel requests whose client disconnects.

Host, token and capacity are checked before the body of a request is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_sift.errors import EngineOverloaded
from langchain_sift.serving.error_responses import Failure, RequestRejected, failure_of
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.request_ids import log_failure, request_id_of
from langchain_sift.serving.sent_response import SentResponse
from langchain_sift.serving.service import Service
from langchain_sift.serving.session_routes import ROUTE
from langchain_sift.serving.tenants import Tenant

_MODEL_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)
_OTHER_ROUTES = ("/v1/models", "/health", "/metrics", "/openapi.json")
_BODY_SECONDS = 10.0


class AdmissionMiddleware:
    """ASGI middleware that admits requests and cancels them if their client disconnects."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        metrics: Metrics,
        hosts: Collection[str] | None = None,
        adds_ids: bool = True,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            service: The service, with its tenants and limits.
            metrics: Counters of requests and rejections.
            hosts: Host names that the server accepts in the Host header. None means all.
            adds_ids: If True, responses get the header X-Request-ID.
        """
        self._app = app
        self._service = service
        self._tenants = service.settings.tenants
        self._metrics = metrics
        self._hosts = None if hosts is None else frozenset(hosts)
        self._adds_ids = adds_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or reject it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the ASGI server leaves the body out
            scope = {**scope, "method": "GET"}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        response = SentResponse(send, request_id if self._adds_ids else None)
        start = time.perf_counter()
        try:
            await self._handle(path, scope, receive, response)
        except Exception as error:  # noqa: BLE001 - the client gets an error response
            await self._reject(error, scope, receive, response)
        except asyncio.CancelledError:  # at a shutdown
            await response.end_at_shutdown(scope, receive)
            raise
        if response.status:
            self._metrics.count_request(_route(path), response.status, time.perf_counter() - start)

    async def _handle(
        self, path: str, scope: Scope, receive: Receive, response: SentResponse
    ) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if path == "/metrics" and not self._tenants.may_read_metrics(_token(headers)):
            raise RequestRejected(_unauthorized("the metrics require the token of [metrics]"))
        if not path.startswith("/v1/"):
            await self._app(scope, receive, response)
            return
        tenant = self._tenant(headers)
        scope["state"]["tenant"] = tenant
        if scope["method"] != "POST" or not _needs_capacity(path):
            await self._app(scope, receive, response)
            return
        with self._service.admit(tenant) as admitted:
            # The tenant's next request may arrive as soon as the response is complete.
            response.before_last = admitted.end
            body = await self._read_body(headers, receive)
            if body is not None:
                _check_is_json(headers)
                scope["state"]["admitted"] = admitted
                await self._run_until_disconnect(scope, body, receive, response)

    def _check_host(self, headers: Headers) -> None:
        """Reject requests of web pages that use DNS rebinding to reach this server."""
        host = headers.get("host", "")
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            raise RequestRejected(
                Failure(
                    HTTPStatus.FORBIDDEN,
                    "unknown host name: without tokens this server accepts only local names; "
                    "use localhost",
                    "host_not_allowed",
                )
            )

    def _tenant(self, headers: Headers) -> Tenant:
        tenant = self._tenants.owner_of(_token(headers))
        if tenant is None:
            self._metrics.count_rejection("unauthorized")
            raise RequestRejected(
                _unauthorized("missing or unknown token: send it as 'Authorization: Bearer TOKEN'")
            )
        return tenant

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the body, or None if the client disconnected."""
        limit = self._service.settings.max_body_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            raise RequestRejected(_too_large(limit))
        parts: list[bytes] = []
        length = 0  # a running sum: there may be a million parts
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    length += len(parts[-1])
                    if length > limit:
                        raise RequestRejected(_too_large(limit))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            failure = Failure(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {_BODY_SECONDS:g} s",
                "request_timeout",
            )
            raise RequestRejected(failure) from error

    async def _run_until_disconnect(
        self, scope: Scope, body: bytes, receive: Receive, response: SentResponse
    ) -> None:
        """Run the application, and cancel it if the client disconnects."""
        disconnected = asyncio.Event()
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_body() -> Message:
            if unread:
                return unread.pop()
            await disconnected.wait()
            return {"type": "http.disconnect"}

        request = asyncio.ensure_future(self._app(scope, receive_body, response))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((request, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not request.done() and not response.complete:
                self._metrics.count_disconnect()
                disconnected.set()
                request.cancel()
            await asyncio.wait((request,))
            if not request.cancelled():
                request.result()
        finally:
            for task in (request, disconnect):
                task.cancel()

    async def _reject(
        self, error: Exception, scope: Scope, receive: Receive, response: SentResponse
    ) -> None:
        if isinstance(error, EngineOverloaded):
            self._metrics.count_rejection("overloaded")
        failure = failure_of(error, retry_after=self._service.retry_after())
        if failure.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._metrics.count_rejection("tenant_limit")
        log_failure(error, failure, scope["state"]["request_id"])
        if not response.status:
            await failure.response()(scope, receive, response)


def _needs_capacity(path: str) -> bool:
    return path in _MODEL_ROUTES or path == ROUTE or path.startswith(f"{ROUTE}/")


def _route(path: str) -> str:
    """Return the route of a path, for the metrics: none has an id in it."""
    if path.startswith(f"{ROUTE}/"):
        return f"{ROUTE}/ID"
    return path if path in (*_MODEL_ROUTES, *_OTHER_ROUTES, ROUTE) else "other"


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_is_json(headers: Headers) -> None:
    """Reject a body of another type: a web page can send such without asking the server first.

    A compressed one is rejected as well: its real size is not known before it is read.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RequestRejected(
            Failure(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body is compressed ({encoding}): send it as it is, without the header "
                "Content-Encoding",
                "unsupported_media_type",
            )
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestRejected(
            Failure(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body is declared as {kind or 'nothing'}: send JSON, with the header "
                "'Content-Type: application/json'",
                "unsupported_media_type",
            )
        )


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


def _too_large(limit: int) -> Failure:
    message = f"the request is too large: at most {limit} bytes are allowed"
    return Failure(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "request_too_large")
