"""A Chroma server that tests start, stop and kill, and a proxy before it that makes faults."""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

HOST = "127.0.0.1"


class Server:
    """The process of `chroma run`, on a path and port that it has again after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return with its first heartbeat."""
        command = shutil.which("chroma", path=str(Path(sys.executable).parent))
        assert command is not None
        where = ["--path", str(self._folder), "--host", HOST, "--port", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [command, "run", *where], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not self._alive():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not come up in 60 s"
            time.sleep(0.05)

    def _alive(self) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self.port}/api/v2/heartbeat", timeout=2).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it with no chance to close anything."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def hang(self) -> None:
        """Let it hold its connections and say nothing."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(0.05)  # that was the first of its threads

    def go_on(self) -> None:
        """End what `hang` began."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Answer:
    """What the server answered, and how to hand it on, or not."""

    def __init__(self, handler: BaseHTTPRequestHandler, ended: threading.Event, get: Any) -> None:
        self._handler, self._get, self.ended = handler, get, ended

    def pass_on(self, *, body: bytes | None = None, length: int | None = None) -> None:
        """Send the server's answer, or another body, or one that claims another length."""
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
        """Send a byte, and another, and another."""
        for byte in body:
            if self.ended.wait(seconds):
                return
            self._handler.wfile.write(bytes([byte]))
            self._handler.wfile.flush()

    def reset(self) -> None:
        """Send nothing, and break the connection off."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._handler.connection.close()


Fault = Callable[[Answer], None]


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    path: str
    headers: dict[str, str]
    body: Any


class FaultyProxy:
    """Stands between a client and a server, and hands on what it is not told to spoil."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._fault: Fault = Answer.pass_on
        self._times, self._after = math.inf, 0
        self._ended = threading.Event()
        self.requests: list[Request] = []
        self.port = 0
        self.accept()

    def inject(self, fault: Fault, *, times: float = math.inf, after: int = 0) -> None:
        """Spoil so many of the next answers, and forget what was asked so far."""
        self.requests.clear()
        self._fault, self._times, self._after = fault, times, after

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._http = ThreadingHTTPServer((HOST, self.port), self._handler())
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # the client is gone: its own affair
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Listen no longer."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def close(self) -> None:
        """End, also what hangs."""
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
        """Ask the server, and spoil its answer if that is what is to be done now."""

        def ask() -> tuple[int, bytes]:
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
        answer = Answer(handler, self._ended, ask)
        faulty = self._after <= number < self._after + self._times
        (self._fault if faulty else Answer.pass_on)(answer)


# Faults


def status(code: int, body: bytes = b"") -> Fault:
    """Answer with a status, without asking the server."""
    return lambda answer: answer.send(code, body)


def half_an_answer(answer: Answer) -> None:
    """Break off in the middle of what was announced."""
    body = answer.body()
    answer.send(200, body[: len(body) // 2], length=len(body))


def half_a_text(answer: Answer) -> None:
    """Send a whole answer with half of what should be in it."""
    answer.pass_on(body=answer.body()[: len(answer.body()) // 2])


def no_json(answer: Answer) -> None:
    """Answer as a proxy's page of greeting does."""
    answer.send(200, b"<html>welcome</html>")


def silence(answer: Answer) -> None:
    """Never answer."""
    answer.ended.wait()


def drip(answer: Answer) -> None:
    """Answer so slowly that each byte comes in time and the whole does not."""
    body = answer.body()
    answer.send(200, body[:10], length=len(body))
    answer.trickle(body[10:], 0.1)


def delay(seconds: float) -> Fault:
    """Answer a little later."""

    def later(answer: Answer) -> None:
        answer.ended.wait(seconds)
        answer.pass_on()

    return later
