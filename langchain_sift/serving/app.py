"""Define the HTTP interface: OpenAI's routes, health and metrics."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from langchain_sift import __version__
from langchain_sift.errors import RequestTimeout, SIFTError
from langchain_sift.serving.admitted import AdmittedRequest
from langchain_sift.serving.completions import Completions
from langchain_sift.serving.error_responses import (
    Failure,
    RequestRejected,
    client_timeout,
    failure_of,
    failure_of_validation,
    timeout_failure,
)
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.middleware import AdmissionMiddleware, log_failure
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.responses import (
    ChatCompletion,
    Chunk,
    Completion,
    ErrorResponse,
    Health,
    Model,
    ModelList,
)
from langchain_sift.serving.service import Service
from langchain_sift.serving.session_routes import ErrorResponses, add_session_routes
from langchain_sift.serving.streams import event_stream
from langchain_sift.serving.text_embeddings import EmbeddingList, EmbeddingRequest, embed

_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, or [DONE]."}},
    "required": ["data"],
}
_ERRORS = {
    400: "Invalid request.",
    401: "Missing or unknown token.",
    403: "Unknown host name.",
    404: "Unknown model or session.",
    408: "The body did not arrive in time, or `ttft.timeout` has passed.",
    409: "The session has learned other documents meanwhile.",
    413: "The request is too large.",
    415: "The body is not declared as JSON.",
    429: "The tenant has too many requests at once.",
    500: "Internal error.",
    503: "The server is at capacity, or the store does not respond; see Retry-After.",
    504: "The server's timeout has passed.",
}


def create_app(service: Service, *, hosts: Collection[str] | None = None) -> FastAPI:
    """Return the ASGI application of a service; any ASGI server can run it.

    The application closes only the connections of its event loop. The caller closes the service.

    Args:
        service: From `open_service`.
        hosts: Host names that the server accepts in the Host header. None means all.
    """
    metrics = Metrics(service.engine_status, service.sessions)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose_connections()

    app = _App(
        title="langchain-sift",
        version=__version__,
        summary="A local model, fine-tuned for each prompt on the most informative documents.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(AdmissionMiddleware, service=service, metrics=metrics, hosts=hosts)
    if origins := service.settings.cors_origins:
        # Around the admission: a preflight request has no token.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["x-request-id", "Retry-After"],
        )
    for kind in (HTTPException, RequestValidationError, SIFTError):
        app.add_exception_handler(kind, _error_handler(service))
    _add_completion_routes(app, service, metrics)
    _add_embedding_route(app, service)
    add_session_routes(app, service, metrics, _error_responses(*_ERRORS))
    _add_model_routes(app, service)
    _add_monitoring_routes(app, service, metrics)
    return app


class _App(FastAPI):
    """Describes an invalid body as status 400, not FastAPI's 422."""

    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(unused, None)
        return description


def _add_completion_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    completions = Completions(service, metrics)
    responses = _error_responses(*(_ERRORS.keys() - {HTTPStatus.CONFLICT}))
    responses[200] = {
        "description": "The answer, or with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
    }

    async def respond(chunks: AsyncGenerator[Chunk], options: TTFTOptions | None) -> Response:
        """Return the response with a stream of chunks."""
        settings = service.settings
        return await event_stream(
            _as_json(chunks),
            status_seconds=settings.status_seconds,
            comment_seconds=settings.comment_seconds,
            failure_of=functools.partial(_stream_failure, options),
        )

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=responses)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Continue a conversation."""
        admitted = _admitted_request(request, body.model, service)
        with client_timeout(body.ttft):
            if body.stream:
                return await respond(completions.chat_stream(body, admitted), body.ttft)
            return _json_response(await completions.chat(body, admitted))

    @app.post("/v1/completions", response_model=Completion, responses=responses)
    async def text_completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        admitted = _admitted_request(request, body.model, service)
        with client_timeout(body.ttft):
            if body.stream:
                return await respond(completions.text_stream(body, admitted), body.ttft)
            return _json_response(await completions.text(body, admitted))


def _add_embedding_route(app: FastAPI, service: Service) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingList, responses=_error_responses(*_ERRORS))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Embed texts with the hidden states of the model."""
        admitted = _admitted_request(request, body.model, service)
        return _json_response(await embed(body, admitted.view))


def _add_model_routes(app: FastAPI, service: Service) -> None:
    model = Model(id=service.settings.model_id, created=service.created)

    @app.get("/v1/models", response_model=ModelList, responses=_error_responses(401, 403, 500))
    async def list_models() -> Response:
        """List the model of this server."""
        return _json_response(ModelList(data=[model]))

    @app.get(
        "/v1/models/{model_id:path}",
        response_model=Model,
        responses=_error_responses(400, 401, 403, 404, 500),
    )
    async def retrieve_model(model_id: str) -> Response:
        """Return the model with this name."""
        _check_model(model_id, service)
        return _json_response(model)


def _add_monitoring_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get(
        "/health",
        response_model=Health,
        responses={
            **_error_responses(403),
            503: {"model": Health, "description": "The engine cannot answer."},
        },
    )
    async def health() -> Response:
        """Check the engine and the connection to the store."""
        state = await service.check_health()
        unavailable = state.status == "unavailable"
        return _json_response(
            state, HTTPStatus.SERVICE_UNAVAILABLE if unavailable else HTTPStatus.OK
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            **_error_responses(401, 403, 500),
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        },
    )
    async def export_metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _error_responses(*statuses: int) -> ErrorResponses:
    """Describe error statuses, as FastAPI's `responses`."""
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}


def _error_handler(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the function that turns an exception into an error response."""

    async def handle(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            return failure_of_validation(error.errors()).response()
        failure = failure_of(error, retry_after=service.retry_after())
        log_failure(error, failure)
        return failure.response()

    return handle


def _admitted_request(request: Request, model: str, service: Service) -> AdmittedRequest:
    _check_model(model, service)
    admitted: AdmittedRequest = request.state.admitted
    return admitted


def _check_model(name: str, service: Service) -> None:
    served = service.settings.model_id
    if name != served:
        message = f"unknown model: this server serves {served!r}"
        raise RequestRejected(Failure(HTTPStatus.NOT_FOUND, message, "model_not_found", "model"))


def _stream_failure(options: TTFTOptions | None, error: Exception) -> Failure:
    """Return what a client is told of an error in a stream."""
    if isinstance(error, RequestTimeout):
        return timeout_failure(error, options)
    failure = failure_of(error)
    log_failure(error, failure)
    return failure


def _json_response(model: BaseModel, status: int = HTTPStatus.OK) -> Response:
    # Serialized by pydantic: it writes a loss that is NaN as null, unlike the `json` module.
    return Response(model.model_dump_json(), status, media_type="application/json")


async def _as_json(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield to_json(chunk, inf_nan_mode="null")
