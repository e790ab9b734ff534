"""Whatever goes wrong, in the shape of OpenAI's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from langchain_sift.errors import (
    ArgumentError,
    DimensionMismatch,
    EmbeddingError,
    EngineOverloaded,
    InvalidFilter,
    PromptTooLong,
    RequestCancelled,
    RequestTimeout,
    SIFTError,
    StoreError,
    TrainingError,
)

_RETRY_STORE_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is answered with."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's name for errors of this kind."""
        kinds = {
            HTTPStatus.UNAUTHORIZED: "authentication_error",
            HTTPStatus.FORBIDDEN: "permission_error",
            HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
        }
        if self.status in kinds:
            return kinds[HTTPStatus(self.status)]
        server = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return "server_error" if server else "invalid_request_error"

    def body(self) -> bytes:
        """Return the JSON that is answered; in ASCII, whatever a client sent."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()

    def response(self) -> Response:
        """Return the whole answer."""
        return Response(self.body(), self.status, dict(self.headers), "application/json")


class Refused(SIFTError):  # noqa: N818
    """A request that is answered with a failure."""

    def __init__(self, failure: Failure) -> None:
        """Carry what is answered."""
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: BaseException, *, retry_after: int = 1) -> Failure:
    """Return an error as it is answered with; nothing of one that is not ours is told.

    Args:
        error: Anything that was raised.
        retry_after: Seconds after which there may be room again.
    """
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, HTTPException):
        return _of_http(error)
    for kind, status, code, message in _KNOWN:
        if isinstance(error, kind):
            return Failure(
                status,
                message or str(error),
                code,
                headers=_headers(status, code, retry_after),
            )
    return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", "internal_error")


# The first that fits. Errors of the store name collections, which are nobody's business.
_KNOWN: Sequence[tuple[type[BaseException], int, str | None, str | None]] = (
    (PromptTooLong, HTTPStatus.BAD_REQUEST, "context_length_exceeded", None),
    (InvalidFilter, HTTPStatus.BAD_REQUEST, "invalid_filter", "the store refuses ttft.filter"),
    (ArgumentError, HTTPStatus.BAD_REQUEST, "invalid_value", None),
    (
        EngineOverloaded,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "overloaded",
        "as much is asked as this server answers at once: try again later",
    ),
    (RequestTimeout, HTTPStatus.GATEWAY_TIMEOUT, "timeout", None),
    (
        RequestCancelled,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "shutting_down",
        "the server is shutting down",
    ),
    (DimensionMismatch, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "internal error"),
    (EmbeddingError, HTTPStatus.BAD_REQUEST, "invalid_value", "the prompt cannot be embedded"),
    (TrainingError, HTTPStatus.INTERNAL_SERVER_ERROR, "training_failed", "training failed"),
    (
        StoreError,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store_unavailable",
        "the document store does not answer: try again later",
    ),
)


def _headers(status: int, code: str | None, retry_after: int) -> dict[str, str]:
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        # What took too long once would be trained again by clients that retry by themselves.
        return {"x-should-retry": "false"}
    if status != HTTPStatus.SERVICE_UNAVAILABLE:
        return {}
    seconds = _RETRY_STORE_SECONDS if code == "store_unavailable" else retry_after
    return {"Retry-After": str(seconds)}


def _of_http(error: HTTPException) -> Failure:
    codes = {
        HTTPStatus.BAD_REQUEST: "invalid_json",  # raised where a body cannot be parsed, alone
        HTTPStatus.NOT_FOUND: "not_found",
        HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    }
    return Failure(
        error.status_code,
        str(error.detail),
        codes.get(HTTPStatus(error.status_code)),
        headers=dict(error.headers or {}),
    )


def failure_of_validation(problems: Sequence[Mapping[str, Any]]) -> Failure:
    """Return what is wrong with a body, without a word of what it held.

    Args:
        problems: As pydantic lists them.
    """
    first = problems[0]
    kind = first["type"]
    place = [str(part) for part in first["loc"] if part != "body"]
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        message = f"the body is no valid JSON: {reason} at character {place[-1] if place else 0}"
        return Failure(HTTPStatus.BAD_REQUEST, message, "invalid_json")
    param = ".".join(place) or None
    what = str(first["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message, code = f"unknown argument: {param}", "unknown_parameter"
    elif kind == "missing":
        message, code = f"missing argument: {param or 'the body'}", "missing_required_parameter"
    else:
        message, code = f"{param or 'the body'}: {what}", "invalid_value"
    return Failure(HTTPStatus.BAD_REQUEST, message, code, param)
