"""The retriever over a real Chroma server, started here and stopped here."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import chromadb
import httpx
import pytest
from langchain_chroma import Chroma

from langchain_sift import SIFTRetriever

if TYPE_CHECKING:
    from langchain_sift import HiddenStateEmbeddings

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        free = probe.getsockname()[1]
    command = shutil.which("chroma", path=str(Path(sys.executable).parent))
    assert command is not None
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [command, "run", "--path", str(folder), "--host", HOST, "--port", str(free)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_alive(server, free)
            yield free
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_until_alive(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            answer = httpx.get(f"http://{HOST}:{port}/api/v2/heartbeat", timeout=2)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if answer.is_success:
            return
    pytest.fail("the server did not come up in 60 s")


def test_a_server_serves_what_the_embedded_store_serves(
    port: int, store: Chroma, embeddings: HiddenStateEmbeddings, texts: list[str]
) -> None:
    remote = Chroma.from_texts(
        texts,
        embeddings,
        ids=[f"text-{number}" for number in range(len(texts))],
        client=chromadb.HttpClient(host=HOST, port=port),
        collection_name=f"texts-{uuid.uuid4()}",
        collection_metadata=embeddings.collection_metadata(),
    )
    assert remote._collection.count() == len(texts)
    for query in ("The river carries seven maps", "A baker at sea"):
        for search_type in SIFTRetriever.allowed_search_types:
            expected = SIFTRetriever(vectorstore=store, k=6, search_type=search_type)
            found = SIFTRetriever(vectorstore=remote, k=6, search_type=search_type)
            assert [d.id for d in found.invoke(query)] == [d.id for d in expected.invoke(query)]
