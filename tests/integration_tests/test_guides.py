"""Run the guide to the endpoint: its server, its request with curl and its client."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from integration_tests.servers import free_port
from unit_tests.guides import ROOT, commands, guide, run_python, text_of

SECONDS = 120.0


def wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers, or fail if it ends or takes too long."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            if httpx.get(f"{url}/health", timeout=60).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("the server did not answer in time")


@pytest.mark.needs("curl")
def test_the_guide_to_the_endpoint_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = text_of(guide("serve"))
    port = free_port()
    assert "--port 8000" in text
    text = text.replace("8000", str(port)).replace("build/", f"{tmp_path}/build/")
    index, serve, curl = commands(text)
    command = [sys.executable, "-m", "langchain_sift"]
    subprocess.run([*command, *index[1:]], check=True, timeout=SECONDS)
    with subprocess.Popen([*command, *serve[1:]]) as server:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", server)
            answered = subprocess.run(curl, check=True, capture_output=True, timeout=SECONDS)
            body = json.loads(answered.stdout)
            assert body["choices"][0]["message"]["role"] == "assistant"
            assert (body["ttft"]["mode"], len(body["ttft"]["context"])) == ("rag", 2)
            names = run_python(text, "serve")
            assert names["message"].content  # type: ignore[attr-defined]
        finally:
            server.terminate()
            server.wait(SECONDS)
