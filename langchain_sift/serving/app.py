"""Define the HTTP interface: OpenAI's routes, health and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match

from langchain_sift import __version__
from langchain_sift.errors import SIFTError
from langchain_sift.serving.answer_routes import add_answer_routes, check_model
from langchain_sift.serving.error_responses import (
    failure_of,
    failure_of_validation,
)
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.middleware import AdmissionMiddleware
from langchain_sift.serving.request_ids import HEADER, log_failure
from langchain_sift.serving.responses import (
    ErrorResponse,
    Health,
    Model,
    ModelList,
    json_response,
)
from langchain_sift.serving.service import Service
from langchain_sift.serving.session_routes import ErrorResponses, add_session_routes

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


def create_app(
    service: Service, *, hosts: Collection[str] | None = None, adds_ids: bool = True
) -> FastAPI:
    """Return the ASGI application of a service; any ASGI server can run it.

    The application closes only the connections of its event loop. The caller closes the service.

    Args:
        service: From `open_service`.
        hosts: Host names that the server accepts in the Host header. None means all.
        adds_ids: If True, responses get the header X-Request-ID, with the client's id or a new one.
            False is for a server that adds the header itself.
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
    app.add_middleware(
        AdmissionMiddleware, service=service, metrics=metrics, hosts=hosts, adds_ids=adds_ids
    )
    if origins := service.settings.cors_origins:
        # Around the admission: a preflight request has no token.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=[HEADER, "Retry-After"],
        )
    for kind in (HTTPException, RequestValidationError, SIFTError):
        app.add_exception_handler(kind, _error_handler(service))
    add_answer_routes(
        app,
        service,
        metrics,
        errors=_error_responses(*(_ERRORS.keys() - {HTTPStatus.CONFLICT})),
    )
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


def _add_model_routes(app: FastAPI, service: Service) -> None:
    model = Model(id=service.settings.model_id, created=service.created)

    @app.get("/v1/models", response_model=ModelList, responses=_error_responses(401, 403, 500))
    async def list_models() -> Response:
        """List the model of this server."""
        return json_response(ModelList(data=[model]))

    @app.get(
        "/v1/models/{model_id:path}",
        response_model=Model,
        responses=_error_responses(400, 401, 403, 404, 500),
    )
    async def retrieve_model(model_id: str) -> Response:
        """Return the model with this name."""
        check_model(model_id, service)
        return json_response(model)


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
        return json_response(
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


def _methods_of(request: Request) -> list[str]:
    """Return the methods of all routes of a request's path."""
    routes: Sequence[Any] = request.app.routes
    found = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    methods = (getattr(route, "methods", None) or () for route in found)  # a mount has none
    return sorted({method for of_route in methods for method in of_route} - {"HEAD"})


def _error_responses(*statuses: int) -> ErrorResponses:
    """Describe error statuses, as FastAPI's `responses`."""
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}


def _error_handler(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the function that turns an exception into an error response."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            return failure_of_validation(error.errors(), error.body).response()
        if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # Starlette names the methods of the first route of the path alone.
            error.headers = {"Allow": ", ".join(_methods_of(request))}
        failure = failure_of(error, retry_after=service.retry_after())
        log_failure(error, failure, request.state.request_id)
        return failure.response()

    return handle
