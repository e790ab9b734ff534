"""Run an endpoint for tests: a store with two tenants, a service, and uvicorn in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from chromadb.api import ClientAPI
from langchain_chroma import Chroma

from langchain_sift import FineTuneConfig, HiddenStateEmbeddings, Limits
from langchain_sift.serving import Service, ServingSettings, create_app, open_service
from langchain_sift.serving.server import server_config

FINETUNE = FineTuneConfig(lora_rank=4, lora_alpha=4.0, learning_rate=0.01, max_length=64)
NAME = "tiny"
HOST = "127.0.0.1"
A, B = "token-of-tenant-a-0001", "token-of-tenant-b-0002"

# Only a failing test waits so long.
SECONDS = 60.0


def fill_collection(
    texts: Sequence[str],
    model: str,
    mean: Any,
    *,
    folder: Path | None = None,
    client: ClientAPI | None = None,
    collection: str = "texts",
) -> Chroma:
    """Store texts with the embeddings of a model; every second text belongs to tenant b."""
    embeddings = HiddenStateEmbeddings(model, mean=mean)
    return Chroma.from_texts(
        list(texts),
        embeddings,
        ids=[f"{collection}-{number}" for number in range(len(texts))],
        metadatas=[
            {"number": number, "tenant": "ab"[number % 2], "even": number % 4 < 2}
            for number in range(len(texts))
        ],
        client=client,
        persist_directory=None if folder is None else str(folder),
        collection_name=collection,
        collection_metadata=embeddings.collection_metadata(),
    )


def make_settings(model: Path, store: Path | str, **settings: Any) -> ServingSettings:
    """Return settings with small numbers."""
    small = {"k": 3, "fetch_k": 20, "finetune": FINETUNE, "max_tokens": 8, "name": NAME}
    small["mode"] = "ttft"
    small["dtype"] = "float32"
    small["status_seconds"] = 60  # on a busy machine as well, an error comes before the headers
    limits = Limits(max_batch_size=4, max_requests=16)
    return ServingSettings(
        **{"model": str(model), "store": str(store), "limits": limits, **small, **settings}
    )


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    service: Service
    url: str
    """URL without /v1."""


@contextmanager
def run_endpoint(settings: ServingSettings, **options: Any) -> Iterator[Endpoint]:
    """Run a server in a thread, on a free port."""
    with open_service(settings) as service:
        config = server_config(create_app(service, **options))
        config.port = 0
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        assert thread.is_alive(), "the server ended"
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Endpoint(service, f"http://{HOST}:{port}")
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive(), "the server is still running"


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not true within {seconds:g} s"
        time.sleep(0.005)
