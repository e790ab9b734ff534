"""The HTTP interface: OpenAI's routes, health and metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from langchain_sift import __version__
from langchain_sift.errors import RequestTimeout, SIFTError
from langchain_sift.serving import requests as protocol
from langchain_sift.serving.completions import Answering, Chunk
from langchain_sift.serving.error_responses import (
    Failure,
    Refused,
    failure_of,
    failure_of_validation,
)
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.middleware import Gate, log_failure
from langchain_sift.serving.service import Admitted, Service

_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, or [DONE]."}},
    "required": ["data"],
}
_FAILURES = {
    400: "The request asks for what cannot be.",
    401: "No token, or an unknown one.",
    403: "Called by a name that this server does not answer to.",
    404: "No such model.",
    408: "The request did not come to its end, or its `ttft.timeout` has passed.",
    413: "The request is too large.",
    429: "The tenant asks too much at once.",
    500: "A mistake of the server.",
    503: "Too much is asked at once, or the store does not answer; see Retry-After.",
    504: "The answer took too long.",
}


def create_app(service: Service, *, hosts: Collection[str] | None = None) -> FastAPI:
    """Return the ASGI application of a service; any ASGI server can run it.

    It closes nothing but the connections of its event loop: who opened the service closes it.

    Args:
        service: From `open_service`.
        hosts: Names by which clients may call it, as the Host header says them; None: any.
    """
    metrics = Metrics(service.engine_status)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose_connections()

    app = _App(
        title="langchain-sift",
        version=__version__,
        summary="A local model that learns from your documents for each prompt.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, service=service, metrics=metrics, hosts=hosts)
    for kind in (HTTPException, RequestValidationError, SIFTError):
        app.add_exception_handler(kind, _failed(service))
    _add_answers(app, service, metrics)
    _add_models(app, service)
    _add_observation(app, service, metrics)
    return app


class _App(FastAPI):
    """Describes itself as it is: what is wrong with a body is answered with 400."""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        for path in described["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(unused, None)
        return described


def _add_answers(app: FastAPI, service: Service, metrics: Metrics) -> None:
    answering = Answering(service, metrics)
    streamed: dict[str, Any] = {
        "description": "The answer, or with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
    }
    responses = {200: streamed, **_failures(*_FAILURES)}

    @app.post("/v1/chat/completions", response_model=protocol.ChatCompletion, responses=responses)
    async def chat_completions(body: protocol.ChatCompletionRequest, request: Request) -> Response:
        """Go on with a conversation, after learning from documents."""
        admitted = _admitted(request, body.model, service)
        with _deadline_of(body.ttft):
            if body.stream:
                return await _streaming(answering.chat_stream(body, admitted))
            return _json(await answering.chat(body, admitted))

    @app.post("/v1/completions", response_model=protocol.Completion, responses=responses)
    async def completions(body: protocol.CompletionRequest, request: Request) -> Response:
        """Go on with a text, after learning from documents."""
        admitted = _admitted(request, body.model, service)
        with _deadline_of(body.ttft):
            if body.stream:
                return await _streaming(answering.completion_stream(body, admitted))
            return _json(await answering.completion(body, admitted))


def _add_models(app: FastAPI, service: Service) -> None:
    model = protocol.Model(id=service.settings.model_id, created=service.created)

    @app.get("/v1/models", response_model=protocol.ModelList, responses=_failures(401, 403, 500))
    async def models() -> Response:
        """Return the model that answers."""
        return _json(protocol.ModelList(data=[model]))

    @app.get(
        "/v1/models/{model_id:path}",
        response_model=protocol.Model,
        responses=_failures(400, 401, 403, 404, 500),
    )
    async def one_model(model_id: str) -> Response:
        """Return the model of this name."""
        _check_model(model_id, service)
        return _json(model)


def _add_observation(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get(
        "/health",
        response_model=protocol.Health,
        responses={
            403: {"model": protocol.ErrorResponse, "description": _FAILURES[403]},
            503: {"model": protocol.Health, "description": "The engine answers nothing."},
        },
    )
    async def health() -> Response:
        """Check the engine, and whether the store's server is there."""
        found = await service.check_health()
        unavailable = found.status == "unavailable"
        return _json(found, HTTPStatus.SERVICE_UNAVAILABLE if unavailable else HTTPStatus.OK)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **_failures(401, 403, 500),
        },
    )
    async def metrics_() -> Response:
        """Tell Prometheus what was done."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": protocol.ErrorResponse, "description": _FAILURES[status]}
        for status in statuses
    }


def _failed(service: Service) -> Any:
    """Return what answers with an error."""

    async def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            return failure_of_validation(error.errors()).response()
        failure = failure_of(error, retry_after=service.retry_after())
        log_failure(error, failure)
        return failure.response()

    return failed


def _admitted(request: Request, model: str, service: Service) -> Admitted:
    _check_model(model, service)
    admitted: Admitted = request.state.admitted
    return admitted


def _check_model(name: str, service: Service) -> None:
    own = service.settings.model_id
    if name != own:
        msg = f"there is no model of this name here: this server has {own!r}"
        raise Refused(Failure(HTTPStatus.NOT_FOUND, msg, "model_not_found", "model"))


@contextmanager
def _deadline_of(options: protocol.TTFTOptions | None) -> Iterator[None]:
    """Tell a client that its own deadline has passed: nothing is wrong with the server."""
    try:
        yield
    except RequestTimeout as error:
        if options is None or options.timeout is None:
            raise
        told = failure_of(error)
        raise Refused(
            replace(told, status=HTTPStatus.REQUEST_TIMEOUT, param="ttft.timeout")
        ) from error


def _json(model: BaseModel, status: int = HTTPStatus.OK) -> Response:
    # Not by way of `json`: a loss may be NaN, which pydantic writes as null.
    return Response(model.model_dump_json(), status, media_type="application/json")


async def _streaming(chunks: AsyncGenerator[Chunk]) -> Response:
    """Stream once there is something to: what fails before has a status of its own."""
    first = await anext(chunks)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _events(first, chunks), headers=headers, media_type="text/event-stream"
    )


async def _events(first: Chunk, chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        yield _event(_dumped(first))
        try:
            async for chunk in chunks:
                yield _event(_dumped(chunk))
        except Exception as error:  # noqa: BLE001 - the status is sent already
            failure = failure_of(error)
            log_failure(error, failure)
            yield _event(failure.body())
    yield _event(b"[DONE]")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _dumped(chunk: Chunk) -> bytes:
    return json.dumps(chunk, ensure_ascii=False).encode()
