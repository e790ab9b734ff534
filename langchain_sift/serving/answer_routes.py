"""Add the routes that need the model: chats, texts, responses and embeddings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from langchain_sift.errors import RequestTimeout
from langchain_sift.serving.admitted import AdmittedRequest
from langchain_sift.serving.completions import Completions
from langchain_sift.serving.error_responses import (
    Failure,
    RequestRejected,
    client_timeout,
    failure_of,
    timeout_failure,
)
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.options import TTFTOptions
from langchain_sift.serving.request_ids import log_failure
from langchain_sift.serving.requests import ChatCompletionRequest, CompletionRequest
from langchain_sift.serving.response_objects import ResponseObject
from langchain_sift.serving.response_requests import ResponseRequest
from langchain_sift.serving.responses import ChatCompletion, Chunk, Completion, json_response
from langchain_sift.serving.service import Service
from langchain_sift.serving.session_routes import ErrorResponses
from langchain_sift.serving.streams import ServerEvent, event_stream
from langchain_sift.serving.text_embeddings import EmbeddingList, EmbeddingRequest, embed

Body = TypeVar("Body", ChatCompletionRequest, CompletionRequest)
Whole = Callable[[Body, AdmittedRequest], Awaitable[BaseModel]]
Streamed = Callable[[Body, AdmittedRequest], Awaitable[AsyncGenerator[Chunk]]]

_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, or [DONE]."}},
    "required": ["data"],
}


def add_answer_routes(
    app: FastAPI, service: Service, metrics: Metrics, *, errors: ErrorResponses
) -> None:
    """Add the routes to an application.

    Args:
        app: The application.
        service: The service.
        metrics: Counters of answers.
        errors: The descriptions of error responses.
    """
    completions = Completions(service, metrics)
    responses: ErrorResponses = {
        **errors,
        200: {
            "description": "The answer, or with `stream` its chunks as server-sent events.",
            "content": {"text/event-stream": {"itemSchema": _EVENT}},
        },
    }

    async def answer(
        body: Body, request: Request, whole: Whole[Body], stream: Streamed[Body]
    ) -> Response:
        """Return the response to a chat or a text, with the functions that answer it."""
        admitted = _admitted_request(request, body.model, service)
        with client_timeout(body.ttft):
            if body.stream:
                events = _chunks(await stream(body, admitted))
                return await _stream_response(service, request, events, body.ttft)
            return json_response(await whole(body, admitted))

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=responses)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Continue a conversation."""
        return await answer(body, request, completions.chat, completions.chat_stream)

    @app.post("/v1/completions", response_model=Completion, responses=responses)
    async def text_completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await answer(body, request, completions.text, completions.text_stream)

    @app.post("/v1/responses", responses=responses)
    async def create_response(body: ResponseRequest, request: Request) -> Response:
        """Continue a conversation, by OpenAI's newer API; the server keeps no conversation."""
        admitted = _admitted_request(request, body.model, service)
        chat, built = body.chat(), ResponseObject(body)
        with client_timeout(body.ttft):
            if body.stream:
                events = built.events(await completions.chat_stream(chat, admitted))
                return await _stream_response(service, request, events, body.ttft, built.failed)
            whole = built.whole(await completions.chat(chat, admitted))
        return Response(to_json(whole, inf_nan_mode="null"), media_type="application/json")

    @app.post("/v1/embeddings", response_model=EmbeddingList, responses=errors)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Embed texts with the hidden states of the model."""
        admitted = _admitted_request(request, body.model, service)
        return json_response(await embed(body, admitted.view, service.settings.longest))


def _error_event(failure: Failure) -> list[ServerEvent]:
    return [ServerEvent(failure.body())]


async def _stream_response(
    service: Service,
    request: Request,
    events: AsyncGenerator[ServerEvent],
    options: TTFTOptions | None,
    on_error: Callable[[Failure], Sequence[ServerEvent]] = _error_event,
) -> Response:
    """Return the response with a stream of events."""
    settings, request_id = service.settings, request.state.request_id
    return await event_stream(
        events,
        status_seconds=settings.status_seconds,
        comment_seconds=settings.comment_seconds,
        on_error=lambda error: on_error(_stream_failure(options, error, request_id)),
    )


def _admitted_request(request: Request, model: str, service: Service) -> AdmittedRequest:
    check_model(model, service)
    admitted: AdmittedRequest = request.state.admitted
    return admitted


def check_model(name: str, service: Service) -> None:
    """Reject the name of a model that is not served."""
    served = service.settings.model_id
    if name != served:
        message = f"unknown model {name[:100]!r}: this server serves {served!r}"
        raise RequestRejected(Failure(HTTPStatus.NOT_FOUND, message, "model_not_found", "model"))


def _stream_failure(options: TTFTOptions | None, error: Exception, request_id: str) -> Failure:
    """Return the failure that a client gets for an error in a stream."""
    if isinstance(error, RequestTimeout):
        return timeout_failure(error, options)
    failure = failure_of(error)
    log_failure(error, failure, request_id)
    return failure


async def _chunks(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[ServerEvent]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield ServerEvent(to_json(chunk, inf_nan_mode="null"))
