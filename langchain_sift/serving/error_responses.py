"""Turn exceptions into error responses in OpenAI's format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.responses import Response

from langchain_sift.errors import (
    ArgumentError,
    DimensionMismatch,
    EmbeddingError,
    EngineOverloaded,
    InvalidFilter,
    NothingToLearn,
    PromptTooLong,
    RequestCancelled,
    RequestTimeout,
    SIFTError,
    StoreError,
    TrainingError,
)

_RETRY_STORE_SECONDS = 2
_KEEPS_NONE = "send the whole conversation: this server keeps none"
# Cures for unknown parameters; the cure for all others is to leave them out.
_CURES = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "guided_json": "use response_format",
    "enable_thinking": "use chat_template_kwargs",
    "think": "use chat_template_kwargs",
    "extra_body": "send its fields beside the others",
    "documents": "let a session learn them, at /v1/ttft/sessions",
    "previous_response_id": _KEEPS_NONE,
    "conversation": _KEEPS_NONE,
}
_NO_ROUTE = (
    "there is no such route: set the base URL to one that ends in /v1; below it are "
    "chat/completions, completions, responses, embeddings, models and ttft/sessions"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error response: status, contents and headers."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's name for this kind of error."""
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
        """Return the JSON body, in ASCII."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()

    def response(self) -> Response:
        """Return the response."""
        return Response(self.body(), self.status, dict(self.headers), "application/json")


class RequestRejected(SIFTError):  # noqa: N818 - named as the other errors
    """A request was rejected, with the error response that the client gets."""

    def __init__(self, failure: Failure) -> None:
        """Keep the error response."""
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the response, from which the message is made."""
        return type(self), (self.failure,)


def failure_of(error: BaseException, *, retry_after: int = 1) -> Failure:
    """Return the error response of an exception; unknown exceptions reveal nothing.

    Args:
        error: Any exception.
        retry_after: Seconds until the server may have capacity again.
    """
    if isinstance(error, RequestRejected):
        return error.failure
    if isinstance(error, HTTPException):
        return _http_failure(error)
    for kind, status, code, message in _KNOWN:
        if isinstance(error, kind):
            return Failure(
                status,
                message or str(error),
                code,
                headers=_headers(status, code, retry_after),
            )
    return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", "internal_error")


# The first match counts. A message replaces the error's text where that may name collections or
# other internals.
_KNOWN: Sequence[tuple[type[BaseException], int, str | None, str | None]] = (
    (PromptTooLong, HTTPStatus.BAD_REQUEST, "context_length_exceeded", None),
    (InvalidFilter, HTTPStatus.BAD_REQUEST, "invalid_filter", "the store rejects ttft.filter"),
    (ArgumentError, HTTPStatus.BAD_REQUEST, "invalid_value", None),
    (
        RecursionError,
        HTTPStatus.BAD_REQUEST,
        "invalid_value",
        "the request is nested too deep: flatten its schemas and arguments",
    ),
    (
        EngineOverloaded,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "overloaded",
        "the server is at capacity: try again later",
    ),
    (RequestTimeout, HTTPStatus.GATEWAY_TIMEOUT, "timeout", None),
    (
        RequestCancelled,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "shutting_down",
        "the server is shutting down: try again later",
    ),
    (DimensionMismatch, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "internal error"),
    (EmbeddingError, HTTPStatus.BAD_REQUEST, "invalid_value", "the prompt cannot be embedded"),
    (NothingToLearn, HTTPStatus.BAD_REQUEST, "nothing_to_learn", None),
    (TrainingError, HTTPStatus.INTERNAL_SERVER_ERROR, "training_failed", "training failed"),
    (
        StoreError,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store_unavailable",
        "the document store does not respond: try again later",
    ),
)


def _headers(status: int, code: str | None, retry_after: int) -> dict[str, str]:
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        # OpenAI's clients retry by default, and would start the same long training again.
        return {"x-should-retry": "false"}
    if status != HTTPStatus.SERVICE_UNAVAILABLE:
        return {}
    seconds = _RETRY_STORE_SECONDS if code == "store_unavailable" else retry_after
    return {"Retry-After": str(seconds)}


def _http_failure(error: HTTPException) -> Failure:
    codes = {
        HTTPStatus.BAD_REQUEST: "invalid_json",
        HTTPStatus.NOT_FOUND: "not_found",
        HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    }
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:  # raised only if no route matches
        message = _NO_ROUTE
    elif error.status_code == HTTPStatus.BAD_REQUEST:  # raised only if a body cannot be parsed
        message = "the body is not valid JSON in UTF-8, or it is nested too deep"
    elif error.headers and "Allow" in error.headers:
        message = f"this route takes {error.headers['Allow']} only"
    return Failure(
        error.status_code,
        message,
        codes.get(HTTPStatus(error.status_code)),
        headers=dict(error.headers or {}),
    )


class TimeoutOption(Protocol):
    """Options of a request with a timeout."""

    @property
    def timeout(self) -> float | None:
        """Seconds. None means that the client set none."""


@contextmanager
def client_timeout(options: TimeoutOption | None) -> Iterator[None]:
    """Respond with 408, a client error, if a timeout that the client set passes in the block."""
    try:
        yield
    except RequestTimeout as error:
        raise RequestRejected(timeout_failure(error, options)) from error


def timeout_failure(error: RequestTimeout, options: TimeoutOption | None) -> Failure:
    """Return the error response after a timeout: the client's own, or the server's."""
    if options is None or options.timeout is None:
        return failure_of(error)
    return replace(failure_of(error), status=HTTPStatus.REQUEST_TIMEOUT, param="ttft.timeout")


def failure_of_validation(problems: Sequence[Mapping[str, Any]], body: object) -> Failure:
    """Return the error response for an invalid body, without its values.

    Args:
        problems: The errors of pydantic's `ValidationError`.
        body: The body, as parsed.
    """
    if problems[0]["type"] == "json_invalid":
        reason = problems[0].get("ctx", {}).get("error", "")
        message = f"the body is not valid JSON: {reason} at character {problems[0]['loc'][-1]}"
        return Failure(HTTPStatus.BAD_REQUEST, message, "invalid_json")
    path, problem = _most_telling(problems, body)
    kind, reason = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if kind.startswith("union_tag"):
        # The field that chooses a type, unless a function chooses it by the field "type".
        name = problem["ctx"]["discriminator"].strip("'")
        path = [*path, "type" if name.endswith("()") else name]
        kind = "missing" if kind == "union_tag_not_found" else kind
        reason = f"must be one of {problem['ctx'].get('expected_tags')}"
    param = ".".join(path) or None
    if kind == "extra_forbidden":
        cure = _CURES.get(path[-1] if path else "", "leave it out")
        message, code = f"unknown parameter: {param}: {cure}", "unknown_parameter"
    elif kind == "missing":
        message = f"missing parameter: {param}" if param else "missing body"
        code = "missing_required_parameter"
    else:
        message, code = f"{param or 'the body'}: {reason}", "invalid_value"
    return Failure(HTTPStatus.BAD_REQUEST, message, code, param)


def _most_telling(
    problems: Sequence[Mapping[str, Any]], body: object
) -> tuple[list[str], Mapping[str, Any]]:
    """Return the path of a field and its problem, of the first field that has any.

    A union has problems for each of its types. The deepest path belongs to the type that is meant;
    of problems at one place, that of a value says more than that of a type.
    """
    paths = [_path(problem, body) for problem in problems]
    of_field = [number for number, path in enumerate(paths) if path[:1] == paths[0][:1]]

    def weight(number: int) -> tuple[int, bool]:
        """Compare problems."""
        kind = problems[number]["type"]
        # An object without a known type is meant as an object.
        return len(paths[number]) + kind.startswith("union_tag"), not kind.endswith("_type")

    best = max(of_field, key=weight)
    return paths[best], problems[best]


def _path(problem: Mapping[str, Any], body: object) -> list[str]:
    """Return the keys and indices of a problem's place; pydantic's names of types are left out."""
    location = [part for number, part in enumerate(problem["loc"]) if number or part != "body"]
    path: list[str] = []
    value = body
    for number, part in enumerate(location):
        is_key = isinstance(value, dict) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]
            path.append(str(part))
        elif problem["type"] == "missing" and number == len(location) - 1:
            path.append(str(part))
    return path
