"""Convert errors of Chroma to errors of this package."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

import httpx
from chromadb.errors import InvalidArgumentError, NotFoundError, QuotaError, RateLimitError

from langchain_sift.errors import (
    CollectionNotFound,
    DimensionMismatch,
    InvalidFilter,
    QuotaExceeded,
    SIFTError,
    StoreError,
    StoreUnavailable,
)

# "Try again later", and the answers of a gateway while the server behind it restarts.
_OVERLOADED = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)

# The message of Chroma Cloud, which names the quota and no document.
_QUOTA = re.compile(r"'([^']+)' exceeded quota limit for action '[^']+': .* limit of (\d+)")

# Messages of a store, and what to do.
_CAUSES = (
    (
        re.compile("disk is full|No space left|disk I/O error|file too large", re.IGNORECASE),
        "its disk is full, or fails: free space, and run the same command again",
    ),
    (
        re.compile("readonly database|Read-only file|Permission denied|unable to open database"),
        "its folder cannot be written: change the permissions, or copy it elsewhere",
    ),
    (
        re.compile("Not a directory|No such file|File name too long"),
        "its folder is missing, or cannot be made: name another one",
    ),
    (
        re.compile("already exists"),
        "another run made it meanwhile: run the same command again",
    ),
    (
        re.compile("not a database|malformed"),
        "its files are damaged: restore the folder from a copy, or index into a new one",
    ),
    (
        re.compile("hnsw|compaction"),
        "its files cannot be read or written: free space on its disk; if that does not help, "
        "restore the folder from a copy, or index into a new one",
    ),
)


def raise_if_overloaded(response: httpx.Response, label: str) -> None:
    """Raise `StoreUnavailable` for "try again later"; Chroma's client raises the same for all."""
    if response.status_code in _OVERLOADED:
        raise StoreUnavailable(
            f"{label}: the server answered {response.status_code}: try again later"
        )


def typed(error: Exception, label: str) -> SIFTError:
    """Convert an error of Chroma, or of its client, to an error of this package.

    A message about an argument is kept. Any other message may contain the text of a document.
    """
    if isinstance(error, SIFTError):
        return error
    quota = _QUOTA.search(str(error))
    if quota is not None:
        return QuotaExceeded(f"{label}: {quota[0]}", quota[1], int(quota[2]))
    if isinstance(error, QuotaError):
        return QuotaExceeded(f"{label}: a quota is exceeded")
    return _by_class(error, label)


def _by_class(error: Exception, label: str) -> SIFTError:
    if isinstance(error, NotFoundError):
        return CollectionNotFound(f"{label} does not exist: it was deleted, or has another name")
    problem = type(error).__name__
    if isinstance(error, RateLimitError | json.JSONDecodeError):  # the second: a cut-off response
        return StoreUnavailable(f"{label}: {problem}")
    if isinstance(error, InvalidArgumentError | ValueError | TypeError):
        if "embedding with dimension" in str(error):
            return DimensionMismatch(
                f"{label}: {error}: open the store with the embeddings that filled it"
            )
        return InvalidFilter(f"{label}: {error}")
    cures = (cure for form, cure in _CAUSES if form.search(str(error)))
    return StoreError(f"{label}: {next(cures, problem)}")
