"""Define the routes of sessions: learn documents, look at a session, end it."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI, Request
from langchain_core.documents import Document
from pydantic import BaseModel, Field, model_validator
from starlette.responses import Response

from langchain_sift.language_models.modes import aretrieve_within, retriever_for
from langchain_sift.serving.admitted import AdmittedRequest
from langchain_sift.serving.error_responses import Failure, RequestRejected, client_timeout
from langchain_sift.serving.metrics import Metrics
from langchain_sift.serving.options import LearningOptions, RetrieverOptions
from langchain_sift.serving.request_parts import Strict
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.responses import json_response
from langchain_sift.serving.service import Service
from langchain_sift.serving.session_store import Session

ROUTE = "/v1/ttft/sessions"
"""The route that makes sessions; /ID after it is the route of one."""

# The server keeps the ids of documents with the session, and every response lists them.
_MOST_ID_CHARACTERS = 512

ErrorResponses = dict[int | str, dict[str, Any]]


class SessionDocument(Strict):
    """A document to learn."""

    text: str
    id: Annotated[str, Field(max_length=_MOST_ID_CHARACTERS)] | None = None


class LearningRequest(Strict):
    """A query for documents of the store, or documents, that a session learns."""

    query: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Learn the documents of the store that inform most about it."
    )
    documents: Annotated[list[str | SessionDocument], Field(min_length=1)] | None = Field(
        default=None, description="Learn these documents, most informative first."
    )
    ttft: LearningOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.query is None) == (self.documents is None):
            raise ValueError("give either query or documents")
        if self.query is not None and not self.query.strip():
            raise ValueError("the query is empty: name what the documents are for")
        if self.documents is not None:
            of_query = {*RetrieverOptions.model_fields, "filter", "min_gain"}
            name = next(iter(self.options.model_dump(include=of_query, exclude_none=True)), None)
            if name is not None:
                raise ValueError(
                    f"{name} has no effect on documents that are given: leave it out, or give a "
                    "query"
                )
        return self

    @property
    def options(self) -> LearningOptions:
        """The settings of the learning."""
        return self.ttft or LearningOptions()


class SessionInfo(BaseModel):
    """A session: an adapter that later requests of its tenant answer with."""

    id: str = Field(description="Its id, for `ttft.session` of a request.")
    object: Literal["ttft.session"] = "ttft.session"
    expires_at: int = Field(description="Unix time at which it ends if it is not used before.")
    documents: list[str | None] = Field(description="Ids of the documents it learned, in order.")
    steps: int = Field(description="Number of gradient steps so far.")
    tokens: int = Field(description="Number of training tokens so far.")
    memory_bytes: int = Field(description="Memory of the adapter.")


class DeletedSession(BaseModel):
    """A session that has ended."""

    id: str
    object: Literal["ttft.session.deleted"] = "ttft.session.deleted"
    deleted: Literal[True] = True


def add_session_routes(
    app: FastAPI, service: Service, metrics: Metrics, errors: ErrorResponses
) -> None:
    """Add the routes of sessions to an application.

    Args:
        app: The application.
        service: The service.
        metrics: Counts the training.
        errors: Descriptions of the error responses.
    """
    sessions = service.sessions

    def info(session: Session, status: int = HTTPStatus.OK) -> Response:
        """Return the response that describes a session."""
        described = SessionInfo(
            id=session.id,
            expires_at=int(time.time() + sessions.seconds_left(session)),
            documents=list(session.documents),
            steps=session.steps,
            tokens=session.tokens,
            memory_bytes=session.nbytes,
        )
        return json_response(described, status)

    @app.post(ROUTE, status_code=201, response_model=SessionInfo, responses=errors)
    async def learn(body: LearningRequest, request: Request) -> Response:
        """Learn documents, and keep the adapter for later requests."""
        admitted: AdmittedRequest = request.state.admitted
        with client_timeout(body.options):
            return info(await _learn(service, metrics, admitted, body), HTTPStatus.CREATED)

    @app.post(ROUTE + "/{session_id}", response_model=SessionInfo, responses=errors)
    async def learn_more(session_id: str, body: LearningRequest, request: Request) -> Response:
        """Learn more documents on top of those of a session."""
        admitted: AdmittedRequest = request.state.admitted
        start = sessions.use(admitted.view.tenant.name, session_id)
        with client_timeout(body.options):
            return info(await _learn(service, metrics, admitted, body, start))

    @app.get(ROUTE + "/{session_id}", response_model=SessionInfo, responses=errors)
    async def look_at(session_id: str, request: Request) -> Response:
        """Return a session. This does not count as a use."""
        return info(sessions.get(request.state.tenant.name, session_id))

    @app.delete(ROUTE + "/{session_id}", response_model=DeletedSession, responses=errors)
    async def end(session_id: str, request: Request) -> Response:
        """End a session, and free its memory."""
        sessions.remove(request.state.tenant.name, session_id)
        return json_response(DeletedSession(id=session_id))


async def _learn(
    service: Service,
    metrics: Metrics,
    admitted: AdmittedRequest,
    body: LearningRequest,
    start: Session | None = None,
) -> Session:
    """Learn documents, on top of those of a session or anew, and return the session."""
    view, sessions = admitted.view, service.sessions
    sessions.check_room(service.engine.adapter_bytes)
    settings = RequestSettings.of_learning(body.options, service.settings, view.retriever)
    began = time.perf_counter()
    if body.query is not None:
        retriever = retriever_for("ttft", settings.retriever)
        retrieval = retriever.ainvoke(body.query, filter=settings.filter)
        documents = await aretrieve_within(settings.timeout, retrieval)
    else:
        documents = _given_documents(body, service.settings.ceilings.get("k"))
    chat = view.chat
    if start is not None:
        chat = chat.model_copy(update={"adapter": start.adapter})
    with await admitted.reserve(began + settings.timeout) as reservation:
        arguments = settings.call_arguments({}, number=0, reservation=reservation, started=began)
        learned = await chat.alearn(documents, **arguments)
    adapter = learned.adapter
    assert adapter is not None  # noqa: S101 - as `alearn` promises
    metrics.count_learning(adapter.training.steps, adapter.training.tokens)
    ids = tuple(documents[index].id for index in adapter.training.trained)
    if start is None:
        return sessions.add(view.tenant.name, adapter, ids)
    return sessions.extend(view.tenant.name, start, adapter, ids)


def _given_documents(body: LearningRequest, most: float | None) -> list[Document]:
    """Return the documents of a request; `most` is the ceiling of `k`, None if there is none."""
    documents = [_document(document) for document in body.documents or ()]
    if most is not None and len(documents) > most:
        message = f"documents: this server allows at most {most:g} at once, as of ttft.k"
        failure = Failure(HTTPStatus.BAD_REQUEST, message, "invalid_value", "documents")
        raise RequestRejected(failure)
    return documents


def _document(document: str | SessionDocument) -> Document:
    if isinstance(document, str):
        return Document(document)
    return Document(document.text, id=document.id)
