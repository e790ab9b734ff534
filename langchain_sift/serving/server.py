"""Run the application under uvicorn, in one process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from langchain_sift.config import API_KEY_VARIABLE
from langchain_sift.errors import ArgumentError
from langchain_sift.serving.app import create_app
from langchain_sift.serving.service import Service, open_service
from langchain_sift.serving.settings import ServingSettings

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Seconds for active requests after a signal to stop. Kubernetes kills a process after 30.
_SHUTDOWN_SECONDS = 25
# Longer than proxies keep a connection, usually 60 s: they must be the first to close it.
_KEEP_ALIVE_SECONDS = 75


def serve(
    settings: ServingSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_open: Callable[[Service], object] = lambda _: None,
    on_ready: Callable[[str], object] = lambda _: None,
) -> None:
    """Answer requests until the process gets a signal to stop.

    The server is one process, because one engine batches the requests of all clients and an
    embedded store belongs to one process. To run several servers, let them share a Chroma server.

    Args:
        settings: Settings of the service.
        host: Address to listen on; a public address requires tokens.
        port: Port to listen on. 0 means a free port.
        on_open: Called with the service when the model is loaded.
        on_ready: Called with the URL for clients when the server listens.

    Raises:
        ArgumentError: If the address is public and there are no tokens, or the address cannot be
            used, or as `open_service`.
    """
    if not (is_loopback(host) or settings.tenants.need_tokens):
        raise ArgumentError(
            f"{host} is a public address, and requests need no token: name tenants (--tenants), "
            f"set {API_KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    with _bind(host, port) as listener, open_service(settings) as service:
        _listen(listener, host)
        on_open(service)
        name = f"[{host}]" if ":" in host else host
        hosts = None if settings.tenants.need_tokens else (*_LOCAL, name)
        config = server_config(create_app(service, hosts=hosts))
        _Server(config, on_ready, f"http://{name}:{listener.getsockname()[1]}/v1").run([listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Return the settings of the HTTP server of an application."""
    return uvicorn.Config(
        _ending_quietly(app),
        # uvicorn's other parser loses the body of a request that offers HTTP/2, as Java's client
        # does, and sends chunks to clients of HTTP/1.0.
        http="h11",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )


def _ending_quietly(app: ASGIApp) -> ASGIApp:
    """Return the application, whose requests are cut at a shutdown without an error in the log.

    The application has told the clients. uvicorn would log the traceback of a cancelled request.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise

    return run


class _Server(uvicorn.Server):
    """Call `on_ready` when the server listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], object], url: str) -> None:
        super().__init__(config)
        self._on_ready, self._url = on_ready, url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready(self._url)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _taken(host, port, error) from error
    return listener


def _listen(listener: socket.socket, host: str) -> None:
    """Listen, after the model is loaded: until then clients are refused, and need not wait.

    Another server that was started meanwhile may be bound to the address too, and listen first.
    """
    try:
        listener.listen()
    except OSError as error:
        raise _taken(host, listener.getsockname()[1], error) from error


def _taken(host: str, port: int, error: Exception) -> ArgumentError:
    return ArgumentError(f"cannot listen on {host}:{port}: {error}; choose another --port")
