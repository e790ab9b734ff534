"""A served model on an embedded store, asked without a network."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from endpoint import put_texts_of_two, settings_for

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
    """Return the folder of a store that holds the texts, half of them tenant a's; to be copied."""
    folder = tmp_path_factory.mktemp("filled-store")
    put_texts_of_two(texts, str(tiny_model_path), embeddings.mean, folder=folder)
    return folder


@pytest.fixture(scope="module")
def open_app(
    filled_folder: Path, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Return what opens a service with these settings, on a store of its own.

    They are closed with the module: tests after it count the models that are in use.
    """
    with ExitStack() as stack:

        def opened(**settings: Any) -> Service:
            folder = tmp_path_factory.mktemp("served") / "store"
            shutil.copytree(filled_folder, folder)
            served = settings_for(tiny_model_path, folder, **settings)
            return stack.enter_context(open_service(served))

        yield opened


@pytest.fixture(scope="module")
def service(open_app: Callable[..., Service]) -> Service:
    return open_app()


Connect = Callable[..., Any]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return what makes a client of a service's application."""
    async with AsyncExitStack() as stack:

        async def connected(
            service: Service, token: str | None = None, **options: Any
        ) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(create_app(service, **options))
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            client = httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60
            )
            return await stack.enter_async_context(client)

        yield connected


@pytest.fixture
async def client(service: Service, connect: Connect) -> httpx.AsyncClient:
    return await connect(service)
