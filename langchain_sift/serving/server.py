"""The application under uvicorn, in one process."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from langchain_sift.errors import ArgumentError
from langchain_sift.serving.app import create_app
from langchain_sift.serving.service import open_service
from langchain_sift.serving.settings import ServingSettings

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
# For what is being answered when the server is told to end. Kubernetes kills after 30.
_GOODBYE_SECONDS = 25


def serve(
    settings: ServingSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], object] = lambda _: None,
) -> None:
    """Answer requests until the process is told to end.

    One process, for one engine batches everybody's requests, and an embedded store belongs to
    one process. More processes are more servers, each with its model, before one Chroma server.

    Args:
        settings: What is served.
        host: Address to listen at; one that others can reach needs tokens.
        port: 0: a free one.
        on_ready: Called with the URL, as clients take it, when the server listens.

    Raises:
        ArgumentError: If the address is public and there are no tokens, or it cannot be had, or
            as `open_service`.
    """
    local = is_local(host)
    if not (local or settings.tenants.need_tokens):
        raise ArgumentError(
            f"{host} is an address that others can reach, and no token is asked for: name "
            "tenants (--tenants), set LANGCHAIN_SIFT_API_KEY, or listen at 127.0.0.1"
        )
    with _bound(host, port) as listener, open_service(settings) as service:
        shown = f"[{host}]" if ":" in host else host
        hosts = None if settings.tenants.need_tokens else (*_LOCAL, shown)
        config = uvicorn.Config(
            create_app(service, hosts=hosts),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GOODBYE_SECONDS,
        )
        _Server(config, on_ready, f"http://{shown}:{listener.getsockname()[1]}/v1").run([listener])


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], object], url: str) -> None:
        super().__init__(config)
        self._on_ready, self._url = on_ready, url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready(self._url)


def is_local(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that has the address, before anything slow is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ArgumentError(
            f"{host}:{port} cannot be listened at: {error}; choose another --port"
        ) from error
    return listener
