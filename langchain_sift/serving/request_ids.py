"""Give each request an id, which the response and the log name."""

from __future__ import annotations

import logging
import re
import traceback
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers

from langchain_sift.errors import StoreError
from langchain_sift.serving.error_responses import Failure

HEADER = "x-request-id"

_SANE = re.compile(r"[!-~]{1,128}")  # printable ASCII, so that no client writes lines of the log
_log = logging.getLogger("langchain_sift.serving")


def request_id_of(headers: Headers) -> str:
    """Return the id that the client or a proxy gave the request, or a new one."""
    given = headers.get(HEADER, "")
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


def log_failure(error: BaseException, failure: Failure, request_id: str) -> None:
    """Log failures of the store, and the traceback of unexpected errors.

    The text of an unexpected error is left out: it may contain a prompt or a document.
    """
    if isinstance(error, StoreError):
        _log.error("%s: %s (request %s)", type(error).__name__, error, request_id)
    elif failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        frames = "".join(traceback.format_tb(error.__traceback__))
        _log.error("%s (request %s)\n%s", type(error).__name__, request_id, frames)
