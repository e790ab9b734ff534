"""Run a Chroma server that tests can stop, and a proxy that injects faults."""

from __future__ import annotations

import http.client
import json
import math
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port that nothing listens on.

    It is none of those that systems lend to connections, one of which could take it meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class Server:
    """A process of `chroma run`, with the same path and port after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait for its first heartbeat."""
        command = shutil.which("chroma", path=str(Path(sys.executable).parent))
        assert command is not None
        location = ["--path", str(self._folder), "--host", HOST, "--port", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [command, "run", *location], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._alive():
            assert self._process.poll() is None, "the server exited"
            assert time.monotonic() < deadline, "the server did not start in 120 s"
            time.sleep(0.05)

    def _alive(self) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self.port}/api/v2/heartbeat", timeout=2).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def hang(self) -> None:
        """Stop the server's process without closing its connections."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(0.05)  # so far only its first thread has stopped

    def resume(self) -> None:
        """Continue after `hang`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class ProxiedResponse:
    """A response of the server that the proxy forwards, changes or drops."""

    def __init__(self, handler: BaseHTTPRequestHandler, ended: threading.Event, get: Any) -> None:
        self._handler, self._get, self.ended = handler, get, ended

    def forward(self, *, body: bytes | None = None, length: int | None = None) -> None:
        """Send the server's response, with another body or another length if given."""
        status, original = self._get()
        body = original if body is None else body
        self.send(status, body, length=length)

    def body(self) -> bytes:
        return self._get()[1]

    def send(self, status: int, body: bytes, *, length: int | None = None) -> None:
        handler = self._handler
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    def trickle(self, body: bytes, seconds: float) -> None:
        """Send the body byte by byte."""
        for byte in body:
            if self.ended.wait(seconds):
                return
            self._handler.wfile.write(bytes([byte]))
            self._handler.wfile.flush()

    def reset(self) -> None:
        """Reset the connection without a response."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._handler.connection.close()


Fault = Callable[[ProxiedResponse], None]


@dataclass(frozen=True)
class Request:
    """A request of a client."""

    path: str
    headers: dict[str, str]
    body: Any


class FaultyProxy:
    """A proxy of a server that forwards requests and injects faults into responses."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._fault: Fault = ProxiedResponse.forward
        self._times, self._after = math.inf, 0
        self._ended = threading.Event()
        self.requests: list[Request] = []
        self.port = 0
        self.accept()

    def inject(self, fault: Fault, *, times: float = math.inf, after: int = 0) -> None:
        """Inject a fault into the next responses, and clear the recorded requests.

        Args:
            fault: The fault.
            times: Number of responses with the fault.
            after: Number of responses to forward before.
        """
        self.requests.clear()
        self._fault, self._times, self._after = fault, times, after

    def accept(self) -> None:
        """Listen, after `refuse` on the same port."""
        self._http = ThreadingHTTPServer((HOST, self.port), self._handler())
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # the client has disconnected
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Stop listening: connections are refused."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def close(self) -> None:
        """Stop, and end responses that hang."""
        self._ended.set()
        self.refuse()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.serve(self, content)
                self.close_connection = True

            do_GET = do_POST = do_DELETE = do_PUT = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def serve(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Forward a request to the server, and inject the fault if it is due."""

        def request() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(HOST, self._target, timeout=30)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request(handler.command, handler.path, content or None, headers)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        number = len(self.requests)
        body = json.loads(content) if content else None
        self.requests.append(Request(handler.path, dict(handler.headers), body))
        is_faulty = self._after <= number < self._after + self._times
        respond = self._fault if is_faulty else ProxiedResponse.forward
        respond(ProxiedResponse(handler, self._ended, request))


# Faults


def status(code: int, body: bytes = b"") -> Fault:
    """Respond with a status, without a request to the server."""
    return lambda response: response.send(code, body)


def truncated_response(response: ProxiedResponse) -> None:
    """Close the connection in the middle of the body."""
    body = response.body()
    response.send(200, body[: len(body) // 2], length=len(body))


def truncated_body(response: ProxiedResponse) -> None:
    """Send a complete response with half of the body."""
    response.forward(body=response.body()[: len(response.body()) // 2])


def html_page(response: ProxiedResponse) -> None:
    """Respond with an HTML page, as the login page of a network does."""
    response.send(200, b"<html>welcome</html>")


def no_response(response: ProxiedResponse) -> None:
    """Never respond."""
    response.ended.wait()


def slow_bytes(response: ProxiedResponse) -> None:
    """Respond so slowly that each byte is within the timeout, and the whole is not."""
    body = response.body()
    response.send(200, body[:10], length=len(body))
    response.trickle(body[10:], 0.1)


def delay(seconds: float) -> Fault:
    """Respond after a delay."""

    def later(response: ProxiedResponse) -> None:
        response.ended.wait(seconds)
        response.forward()

    return later
