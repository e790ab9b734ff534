"""Check the address of a server, and share a timeout among the addresses of its host."""

from __future__ import annotations

import socket

import httpx


def is_http(url: object) -> bool:
    """Return True for an HTTP address with a host."""
    try:
        address = httpx.URL(url) if isinstance(url, str) else None
    except httpx.InvalidURL:
        return False
    return address is not None and address.scheme in {"http", "https"} and bool(address.host)


def blocking_timeout(url: str, seconds: float) -> httpx.Timeout:
    """Return a timeout for a synchronous client in which the addresses of a host share the time.

    The client itself would give each address the whole time to connect.

    Args:
        url: Address of the server.
        seconds: Seconds until one of its addresses must connect, and then answer.
    """
    server = httpx.URL(url)
    try:
        count = len(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
    except OSError:  # the request reports it
        count = 1
    return httpx.Timeout(seconds, connect=seconds / max(1, count))
