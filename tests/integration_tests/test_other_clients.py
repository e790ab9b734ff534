"""Use the endpoint with litellm, curl, and a page of another origin in a browser."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from endpoint import NAME, Endpoint, fill_collection, make_settings, run_endpoint

from langchain_sift.serving import Tenants

KEY = "a-key-that-is-long-enough"
HOST = "127.0.0.1"
HELLO = [{"role": "user", "content": "Hello"}]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Page:
    """A page that sends requests to the endpoint, and its results to its own server."""

    def __init__(self) -> None:
        self.script = ""
        self.result: Any = None
        self.done = threading.Event()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(f"<script>{page.script}</script>".encode())

            def do_POST(self) -> None:
                page.result = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                page.done.set()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer((HOST, 0), Handler)
        self.origin = f"http://{HOST}:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def visit(self, script: str, profile: Path) -> Any:
        """Run a script in the browser, and return its result."""
        self.script = (
            f"(async () => {{ {script} }})().catch(error => String(error)).then("
            "result => fetch('/', {method: 'POST', body: JSON.stringify(result)}))"
        )
        browser = next(path for name in BROWSERS if (path := shutil.which(name)))
        command = [browser, *SWITCHES, f"--user-data-dir={profile}", self.origin]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            try:
                assert self.done.wait(120), "the page sent no result"
            finally:
                running.terminate()
        return self.result


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = Page()
    yield page
    page.http.shutdown()
    page.http.server_close()


@pytest.fixture(scope="module")
def endpoint(tiny_model_path, embeddings, texts, tmp_path_factory, page) -> Iterator[Endpoint]:
    store = tmp_path_factory.mktemp("store")
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=store)
    tenants = Tenants.of_one_key(KEY)
    settings = make_settings(tiny_model_path, store, tenants=tenants, cors_origins=(page.origin,))
    with run_endpoint(settings) as endpoint:
        yield endpoint


@pytest.mark.needs(*BROWSERS)
def test_a_page_of_another_origin(endpoint: Endpoint, page: Page, tmp_path: Path) -> None:
    result = page.visit(
        f"""
        const ask = body => fetch("{endpoint.url}/v1/chat/completions", {{
          method: "POST",
          headers: {{"Content-Type": "application/json", "Authorization": "Bearer {KEY}"}},
          body: JSON.stringify({{model: "{NAME}", messages: {json.dumps(HELLO)}, ...body}}),
        }});
        const whole = await (await ask({{}})).json();
        const response = await ask({{stream: true}});
        let text = "";
        for await (const part of response.body.pipeThrough(new TextDecoderStream())) text += part;
        const deltas = text.split("\\n\\n").filter(line => line.startsWith("data: {{"))
          .map(line => JSON.parse(line.slice(6)).choices[0].delta.content ?? "");
        const refused = await ask({{temperature: 9}});
        return [whole.choices[0].message.content, deltas.join(""), refused.status,
          (await refused.json()).error.param, refused.headers.get("x-request-id").length];""",
        tmp_path,
    )
    content, streamed, status, param, length = result
    assert content
    assert streamed == content
    assert (status, param, length) == (400, "temperature", 32)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("declared", [True, False])
def test_curl(endpoint: Endpoint, declared: bool) -> None:  # noqa: FBT001 - a parameter of a test
    header = ["-H", "Content-Type: application/json"] if declared else []
    body = json.dumps({"model": NAME, "prompt": ["Hello", "The river"], "max_tokens": 2})
    url = f"{endpoint.url}/v1/completions"
    curl = str(shutil.which("curl"))
    done = subprocess.run(
        [curl, "-s", url, "-H", f"Authorization: Bearer {KEY}", *header, "-d", body],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    response = json.loads(done.stdout)
    if declared:
        assert [choice["index"] for choice in response["choices"]] == [0, 1]
    else:
        assert "Content-Type: application/json" in response["error"]["message"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_offers_http_2_or_knows_only_http_1_0(
    endpoint: Endpoint, version: str
) -> None:
    body = json.dumps({"model": NAME, "prompt": "Hello", "max_tokens": 2, "stream": True})
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAQAAP__\r\n"
    head = (
        f"POST /v1/completions HTTP/{version}\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{offer if version == '1.1' else ''}\r\n"
    )
    address = (HOST, int(endpoint.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=60) as client:
        client.sendall((head + body).encode())
        answer = b""
        while b"[DONE]" not in answer and (piece := client.recv(1 << 16)):
            answer += piece
    headers, _, events = answer.partition(b"\r\n\r\n")
    assert headers.split()[1] == b"200"
    assert b"data: [DONE]" in events
    assert (b"transfer-encoding: chunked" in headers.lower()) == (version == "1.1")


@pytest.mark.filterwarnings("default")
async def test_litellm(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it is downloaded
    import litellm  # noqa: PLC0415 - reads the variable

    shared: dict[str, Any] = {"api_base": f"{endpoint.url}/v1", "api_key": KEY, "max_retries": 0}
    chat = {**shared, "model": f"openai/{NAME}", "messages": HELLO, "user": "someone"}
    whole = litellm.completion(**chat, metadata={"a": "b"}, n=2, seed=3, temperature=1.0)
    assert [choice.index for choice in whole.choices] == [0, 1]
    answer = litellm.completion(**chat, extra_body={"ttft": {"mode": "base"}})
    assert answer.choices[0].message.content
    chunks = litellm.completion(**chat, stream=True, extra_body={"ttft": {"mode": "base"}})
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == answer.choices[0].message.content
    scored = await litellm.acompletion(**chat, logprobs=True, top_logprobs=1)
    assert scored.choices[0].logprobs.content[0].top_logprobs[0].logprob <= 0
    text = litellm.text_completion(
        **shared, model=f"text-completion-openai/{NAME}", prompt="The river", max_tokens=3
    )
    assert text.usage.completion_tokens == 3
    vectors = litellm.embedding(**shared, model=f"openai/{NAME}", input=["a", "b"])
    assert [one["index"] for one in vectors.data] == [0, 1]
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**chat, "temperature": 9})
