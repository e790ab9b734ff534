"""A proxy of a Chroma server that enforces the quotas of Chroma Cloud, and asks for a token.

The quotas are those of https://docs.trychroma.com/cloud/quotas-limits. The number of query
vectors is not documented: 20 is the default of the server's source. A condition on the text may
have 130 bytes as measured by users, and a regular expression 256.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from integration_tests.servers import HOST

Violation = tuple[str, int, int]
"""Name of a quota, the request's value and the limit."""

ROWS = 300
QUERY_VECTORS = 20


@dataclass(frozen=True)
class Call:
    """A request that passed through the proxy."""

    path: str
    action: str
    body: Any
    headers: dict[str, str]
    refused: str | None


class QuotaProxy:
    """A proxy that refuses what Chroma Cloud refuses.

    Args:
        target: Port of the server.
        prefix: Path under which the API lies, such as "/chroma".
        credentials: Name and value of a header without which requests are refused.
    """

    def __init__(
        self, target: int, *, prefix: str = "", credentials: tuple[str, str] | None = None
    ) -> None:
        self.calls: list[Call] = []
        self._target, self._prefix, self._credentials = target, prefix, credentials
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}{self._prefix}"

    @property
    def refusals(self) -> list[str]:
        return [call.refused for call in self.calls if call.refused is not None]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else {}
        path, headers = handler.path.partition("?")[0], dict(handler.headers)
        action = action_of(handler.command, path)
        status, refused = self._refusal(handler, action, body)
        self.calls.append(Call(path, action, body, headers, refused))
        if refused is not None:
            answer = json.dumps({"error": "ChromaError", "message": refused}).encode()
            return _send(handler, status, answer)
        if action == "Get" and body.get("limit") is None:
            body["limit"] = ROWS  # Chroma Cloud returns no more, without an error
            content = json.dumps(body).encode()
        status, answer = self._forward(handler, content)
        if path.endswith("/pre-flight-checks"):
            answer = json.dumps({**json.loads(answer), "max_batch_size": 1000}).encode()
        return _send(handler, status, answer)

    def _refusal(
        self, handler: BaseHTTPRequestHandler, action: str, body: Any
    ) -> tuple[int, str | None]:
        if not handler.path.startswith(self._prefix):
            return 404, "no such path"
        if self._credentials is not None:
            name, value = self._credentials
            if handler.headers.get(name) != value:
                return 401, "Unauthorized"
        for quota, usage, limit in violations(action, body):
            if usage > limit:
                return 422, (
                    f"Quota exceeded: '{quota}' exceeded quota limit for action '{action}': "
                    f"current usage of {usage} exceeds limit of {limit}"
                )
        return 200, None

    def _forward(self, handler: BaseHTTPRequestHandler, content: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self._target, timeout=30)
        try:
            path = handler.path.removeprefix(self._prefix)
            headers = {"Content-Type": "application/json"}
            connection.request(handler.command, path, content or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body)


def action_of(method: str, path: str) -> str:
    """Return the action of a request, by Chroma's names."""
    last = path.rstrip("/").rpartition("/")[2]
    if last in {"add", "get", "query", "upsert", "update", "delete"}:
        return last.capitalize()
    if method == "POST" and last == "collections":
        return "Create Collection"
    return "Update Collection" if method == "PUT" else method


def violations(action: str, body: Any) -> Iterator[Violation]:
    """Yield each quota with the value of a request; most values are within it."""
    if action in {"Create Collection", "Update Collection"}:
        yield "Name size (bytes)", size(body.get("name") or body.get("new_name")), 128
        yield from _metadata(body.get("metadata") or body.get("new_metadata"), 256)
    if action in {"Add", "Upsert", "Update", "Delete"}:
        yield from _records(body)
    if action == "Query":
        yield "Number of results", body.get("n_results") or 10, ROWS
        yield "Number of query embeddings", len(body["query_embeddings"]), QUERY_VECTORS
    if action == "Get":
        yield "Limit value", body.get("limit") or 0, ROWS
    for id_ in body.get("ids") or ():
        yield "ID size (bytes)", size(id_), 128
    yield from _conditions(body)


def _records(body: Any) -> Iterator[Violation]:
    yield "Number of records", len(body.get("ids") or ()), ROWS
    for text in body.get("documents") or ():
        yield "Document size (bytes)", size(text), 16384
    for metadata in body.get("metadatas") or ():
        yield from _metadata(metadata, 4096)


def _metadata(metadata: Any, longest: int) -> Iterator[Violation]:
    yield "Number of metadata dictionary keys", len(metadata or {}), 32
    for key, value in (metadata or {}).items():
        yield "Size of metadata dictionary key (bytes)", size(key), 36
        yield "Size of metadata dictionary value (bytes)", size(value), longest


def _conditions(body: Any) -> Iterator[Violation]:
    leaves = list(_leaves(body.get("where")))
    texts = list(_leaves(body.get("where_document")))
    yield "Number of where clause predicates", len(leaves) + len(texts), 8
    for operator, value in texts:
        if "regex" in operator:
            yield "Length of regex pattern", size(value), 256
        else:
            yield "Length of where document value", size(value), 130


def _leaves(condition: Any) -> Iterator[tuple[str, Any]]:
    for key, value in (condition or {}).items():
        if key in {"$and", "$or"}:
            for part in value:
                yield from _leaves(part)
        else:
            yield key, value


def size(value: Any) -> int:
    return len(str(value or "").encode())
