"""Open services on an embedded store, and send requests to them without a network."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from endpoint import fill_collection, make_settings

from langchain_sift.serving import Service, create_app, open_service

if TYPE_CHECKING:
    from langchain_sift import HiddenStateEmbeddings


@pytest.fixture(scope="session")
def filled_folder(
    tiny_model_path: Path,
    embeddings: HiddenStateEmbeddings,
    texts: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the folder of a store with the texts of two tenants; tests copy it."""
    folder = tmp_path_factory.mktemp("filled-store")
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=folder)
    return folder


@pytest.fixture(scope="module")
def new_service(
    filled_folder: Path, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Return a function that opens a service with some settings, on a copy of the store.

    The services are closed with the module, since later tests count the models in use.
    """
    with ExitStack() as stack:

        def open_copy(**settings: Any) -> Service:
            folder = tmp_path_factory.mktemp("served") / "store"
            shutil.copytree(filled_folder, folder)
            return stack.enter_context(
                open_service(make_settings(tiny_model_path, folder, **settings))
            )

        yield open_copy


@pytest.fixture(scope="module")
def service(new_service: Callable[..., Service]) -> Service:
    return new_service()


Connect = Callable[..., Any]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return a function that connects a client to a service's application."""
    async with AsyncExitStack() as stack:

        async def open_client(
            service: Service, token: str | None = None, **options: Any
        ) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(create_app(service, **options))
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            client = httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60
            )
            return await stack.enter_async_context(client)

        yield open_client


@pytest.fixture
async def client(service: Service, connect: Connect) -> httpx.AsyncClient:
    return await connect(service)
