"""A hub that cannot be reached is reported at once, and what was downloaded before is loaded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from langchain_sift.errors import ModelLoadError
from langchain_sift.indexing.sentence_embeddings import is_sentence_transformer
from langchain_sift.ttft.model.files import folder_of, sentence_transformer_folder
from langchain_sift.ttft.model.hub import why_unreachable
from langchain_sift.ttft.model.names import ModelName

COMMIT = "0" * 40


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return the folder of an empty cache, of a hub at an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen, nor does another process
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        yield tmp_path


@pytest.fixture
def busy_hub() -> Iterator[str]:
    """Return the address of a server that answers each request with 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.usefixtures("cache")
def test_a_model_that_is_not_in_the_cache() -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be reached .*: check the spelling"):
        folder_of(ModelName("org/name"), None)
    with pytest.raises(ModelLoadError, match="no model on the hub can have this name"):
        folder_of(ModelName("a--b"), None)


def test_a_model_in_the_cache_is_loaded(cache: Path) -> None:
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    for path, text in ((repository / "refs" / "main", COMMIT), (snapshot / "config.json", "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert folder_of(ModelName("org/name"), None) == str(snapshot)
    assert sentence_transformer_folder("org/name") == snapshot
    assert not is_sentence_transformer("org/name")


@pytest.mark.usefixtures("cache")
def test_a_hub_that_answers_is_asked(busy_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be reached" in str(why_unreachable())
    monkeypatch.setattr(constants, "ENDPOINT", busy_hub)
    assert why_unreachable() is None
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert why_unreachable() is None
