"""An endpoint for tests: a store of two tenants, a service on it, and uvicorn in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from chromadb.api import ClientAPI
from langchain_chroma import Chroma

from langchain_sift import FineTuneConfig, HiddenStateEmbeddings, Limits
from langchain_sift.serving import Service, ServingSettings, create_app, open_service

RECIPE = FineTuneConfig(lora_rank=4, lora_alpha=4.0, learning_rate=0.01, max_length=64)
NAME = "tiny"
HOST = "127.0.0.1"
A, B = "token-of-tenant-a-0001", "token-of-tenant-b-0002"


def put_texts_of_two(
    texts: Sequence[str],
    model: str,
    mean: Any,
    *,
    folder: Path | None = None,
    client: ClientAPI | None = None,
    collection: str = "texts",
) -> Chroma:
    """Put texts into a collection, embedded by a model; every other is tenant b's."""
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


def settings_for(model: Path, store: Path | str, **settings: Any) -> ServingSettings:
    """Return settings with small numbers."""
    small = {"k": 3, "fetch_k": 20, "finetune": RECIPE, "max_tokens": 8, "name": NAME}
    small["dtype"] = "float32"
    limits = Limits(max_batch_size=4, max_requests=16)
    return ServingSettings(
        **{"model": str(model), "store": str(store), "limits": limits, **small, **settings}
    )


@dataclass(frozen=True)
class Endpoint:
    """A server that runs."""

    service: Service
    url: str
    """Without /v1."""


@contextmanager
def running(settings: ServingSettings, **options: Any) -> Iterator[Endpoint]:
    """Run a server in a thread, on a free port."""
    with open_service(settings) as service:
        config = uvicorn.Config(
            create_app(service, **options), host=HOST, port=0, log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server ended"
            assert time.monotonic() < deadline, "the server did not start in 30 s"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Endpoint(service, f"http://{HOST}:{port}")
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not end in 30 s"


def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
