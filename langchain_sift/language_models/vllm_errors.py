"""Raise the errors of a vLLM server as those of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from langchain_sift.errors import AdapterRefused, GeneratorUnavailable, RequestTimeout

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank
_MESSAGE_LENGTH = 300


@contextmanager
def translate_errors(base_url: str, timeout: float) -> Iterator[None]:
    """Raise httpx's errors within the block as those of this package.

    Raises:
        RequestTimeout: If the server does not answer in time.
        GeneratorUnavailable: If the server cannot be reached.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise RequestTimeout(
            f"the vLLM server at {base_url} did not answer within {timeout} s"
        ) from error
    except httpx.HTTPError as error:
        raise GeneratorUnavailable(
            f"the vLLM server at {base_url} cannot be reached "
            f"({type(error).__name__}): is it running, and is this its address?"
        ) from error


def may_have_arrived(error: BaseException) -> bool:
    """Return True if a request that failed in `translate_errors` may have reached the server."""
    return not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


def check_loaded(response: httpx.Response, base_url: str, folder: Path, rank: int) -> None:
    """Reject a response of the server that is not a success.

    Args:
        response: The response to the request to load an adapter.
        base_url: The address of the server.
        folder: The folder of the adapter.
        rank: The adapter's rank.

    Raises:
        GeneratorUnavailable: If the server is at capacity.
        AdapterRefused: If the server rejected the adapter; the message names the cure.
    """
    if response.is_success:
        return
    status = response.status_code
    prefix = f"the vLLM server at {base_url} answered {status}"
    if status in {429, 502, 503, 504}:
        raise GeneratorUnavailable(f"{prefix}: try again later")
    message = _message(response)
    if status == 404 and message is None and not base_url.endswith("/v1"):
        raise AdapterRefused(f"{prefix}: base_url must end in /v1, as http://host:port/v1 does")
    raise AdapterRefused(f"{prefix}: {_reason(status, message, folder, rank)}")


def _reason(status: int, message: str | None, folder: Path, rank: int) -> str:
    """Return the reason for a rejection, and its cure."""
    if status in {401, 403}:
        return "api_key is not the key that it was started with"
    if status == 404 and message is None:
        return (
            "it takes no adapters: start it with --enable-lora, and with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
        )
    if message is not None and "rank" in message.lower():
        enough = next((value for value in _RANKS if value >= rank), rank)
        return f"{message}; start it with --max-lora-rank {enough}, or lower lora_rank"
    if status == 404:
        return f"{message}; the server must be able to read {folder} under that path"
    return f"it rejected the adapter: {message}"


def _message(response: httpx.Response) -> str | None:
    """Return the message of a vLLM error; None if the response is not vLLM's."""
    try:
        body = response.json()
    except ValueError:
        return None
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message[:_MESSAGE_LENGTH] if isinstance(message, str) else None
